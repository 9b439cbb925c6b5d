"""The largest rate that a way carries without loss, found by bisection.

Knows nothing of packets: a trial is a function from a rate to what came of it.
"""

import math
from dataclasses import dataclass

# Loss up to this still counts as none: one hiccup of the machine's scheduler in a trial is not the way's limit.
TOLERANCE = 0.001
# More than this is no hiccup: such a failure is believed at once, a smaller one when it comes three times in a row.
CERTAIN_LOSS = 0.05
ATTEMPTS = 3
# The search ends when the lowest failing rate is this close above the highest passing one.
PRECISION = 1.05
FLOOR = 1_000
CEILING = 3_000_000
# A sender that reaches less than this share of what it was asked for is itself the limit.
OPEN_LOOP = 0.93
CONFIRMATIONS = 2


@dataclass(frozen=True)
class Trial:
    """What was asked for, what the sender reached (packets per second), and what came of it."""

    asked: float
    reached: float
    sent: int
    arrived: int

    def is_lossfree(self):
        return self.sent > 0 and self.sent - self.arrived <= TOLERANCE * self.sent

    def is_beyond_doubt(self):
        return self.sent - self.arrived > CERTAIN_LOSS * self.sent or not self.sent

    def is_kept(self):
        return self.reached >= OPEN_LOOP * self.asked


@dataclass(frozen=True)
class Rate:
    """The answer; `sender_is_limit`: the way may carry more than the sender can send."""

    packets_per_second: float
    sender_is_limit: bool
    trials: int


class Search:
    """One search. Raises nothing: a way that loses at any rate carries 0."""

    def __init__(self, trial):
        self.trial, self.trials = trial, 0

    def run(self, start, step=1.5):
        passed, failed, sender_is_limit = self.bracket(start, step)
        if passed is None:
            return Rate(0.0, False, self.trials)
        while failed and failed / passed > PRECISION:
            middle = math.sqrt(failed * passed)
            tried = self.attempt(middle)
            if tried and tried.is_kept():
                passed = middle
            elif tried:
                sender_is_limit, failed = True, middle
            else:
                sender_is_limit, failed = False, middle
        return self.confirm(passed, sender_is_limit)

    def bracket(self, start, step):
        """A passing rate and a failing one above it, by steps up from the start, or down from it."""
        passed, failed, rate = None, None, start
        while FLOOR <= rate <= CEILING:
            tried = self.attempt(rate)
            if not tried:
                failed = rate
                if passed is not None:
                    return passed, failed, False
                rate /= step
                continue
            if not tried.is_kept():
                # More cannot be asked of the sender; what it reached is the answer, unless that was found before.
                return passed or tried.reached, rate if passed else None, True
            passed = rate
            if failed is not None:
                return passed, failed, False
            rate *= step
        return passed, failed, False

    def confirm(self, rate, sender_is_limit):
        """Goes down until a rate passes twice in a row: the answer holds, it did not only happen once."""
        while rate >= FLOOR:
            tried = []
            while len(tried) < CONFIRMATIONS:
                tried.append(self.once(rate))
                if not tried[-1].is_lossfree():
                    break
            else:
                reached = sum(trial.reached for trial in tried) / len(tried)
                return Rate(reached, sender_is_limit, self.trials)
            rate, sender_is_limit = rate / PRECISION, False
        return Rate(0.0, False, self.trials)

    def attempt(self, rate):
        """The trial when it passed, None when the rate is believed to lose. A sender that was late gets another chance, too."""
        passed = None
        for _ in range(ATTEMPTS):
            tried = self.once(rate)
            if tried.is_lossfree():
                passed = tried
                if tried.is_kept():
                    break
            elif tried.is_beyond_doubt():
                break
        return passed

    def once(self, rate):
        self.trials += 1
        return self.trial(rate)
