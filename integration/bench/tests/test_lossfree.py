"""The search for the loss-free rate, on links that are made up."""

import os
import random
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from lossfree import PRECISION, Search, Trial  # noqa: E402


def link(capacity, sender=10_000_000, seconds=0.5, hiccups=0.0, seed=1):
    """A way that carries `capacity` packets per second and loses the rest; some trials lose 1 % for no reason of the rate."""
    dice = random.Random(seed)

    def trial(rate):
        reached = min(rate, sender)
        sent = int(reached * seconds)
        arrived = min(sent, int(capacity * seconds))
        if dice.random() < hiccups:
            arrived = int(arrived * 0.99)
        return Trial(rate, reached, sent, arrived)

    return trial


class LossFree(unittest.TestCase):
    def assert_close(self, found, capacity):
        self.assertLessEqual(found, capacity * 1.002)
        self.assertGreaterEqual(found, capacity / PRECISION / PRECISION)

    def test_the_answer_is_just_below_what_the_way_carries(self):
        for capacity in (1_500, 20_000, 33_333, 150_000, 999_999):
            with self.subTest(capacity):
                self.assert_close(Search(link(capacity)).run(20_000).packets_per_second, capacity)

    def test_a_start_from_an_earlier_answer_finds_the_same_with_fewer_trials(self):
        cold = Search(link(150_000)).run(20_000)
        warm = Search(link(150_000)).run(cold.packets_per_second * 0.9, step=1.25)
        self.assert_close(warm.packets_per_second, 150_000)
        self.assertLess(warm.trials, cold.trials)

    def test_a_start_far_above_comes_down(self):
        self.assert_close(Search(link(9_000)).run(400_000, step=1.25).packets_per_second, 9_000)

    def test_one_hiccup_in_ten_trials_does_not_halve_the_answer(self):
        for seed in range(20):
            with self.subTest(seed):
                found = Search(link(100_000, hiccups=0.1, seed=seed)).run(20_000).packets_per_second
                self.assertGreater(found, 75_000)

    def test_a_way_that_loses_at_any_rate_carries_nothing(self):
        answer = Search(lambda rate: Trial(rate, rate, 1000, 900)).run(20_000)
        self.assertEqual(answer.packets_per_second, 0)

    def test_a_way_on_which_nothing_arrives_ends_the_search(self):
        self.assertEqual(Search(lambda rate: Trial(rate, 0, 0, 0)).run(20_000).packets_per_second, 0)

    def test_a_sender_that_is_slower_than_the_way_is_told(self):
        answer = Search(link(5_000_000, sender=220_000)).run(20_000)
        self.assertTrue(answer.sender_is_limit)
        self.assert_close(answer.packets_per_second, 220_000)
        self.assertFalse(Search(link(100_000, sender=220_000)).run(20_000).sender_is_limit)


if __name__ == "__main__":
    unittest.main()
