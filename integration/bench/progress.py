"""How far a bench is and how long it has to go, from what its steps took so far."""

import time

from results import say


class Progress:
    """Knows the expected seconds of every step. What steps really take corrects what is expected of the rest."""

    def __init__(self, expected, clock=time.monotonic):
        self.left, self.clock = list(expected), clock
        self.all, self.done, self.spent = len(self.left), 0.0, 0.0
        self.begun = None
        self.current = 0.0

    def step(self, text):
        """Begins the next step and tells what is left, this step included."""
        self.finish()
        self.current = self.left.pop(0) if self.left else 0.0
        self.begun = self.clock()
        number = self.all - len(self.left)
        say(f"[{number}/{self.all}, {duration(self.remaining())} left] {text}")

    def finish(self):
        if self.begun is not None:
            self.spent += self.clock() - self.begun
            self.done += self.current
            self.begun = None

    def remaining(self):
        # The guess counts for a minute of evidence, so that one short or failed step does not throw the estimate off.
        pace = (self.spent + 60) / (self.done + 60)
        return (self.current + sum(self.left)) * pace


def duration(seconds):
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
