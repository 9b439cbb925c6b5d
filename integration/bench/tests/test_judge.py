"""The judge of the chaos runs notices what it is there for."""

import importlib.util
import os
import unittest

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "kafka", "judge.py")
SPEC = importlib.util.spec_from_file_location("judge", PATH)
judge = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(judge)


def topic(*seqs, partitions=2):
    """Records of events in these orders: each in the partition and with the key that its number gives."""
    last, offsets = {}, {}
    for seq in seqs:
        partition = seq % partitions
        offsets[partition] = offsets.get(partition, -1) + 1
        yield partition, offsets[partition], f"node:{seq % 4}", {"wattle-seq": str(seq), "wattle-prev-seq": str(last.get(partition, 0))}
        last[partition] = seq


class Judge(unittest.TestCase):
    def faults(self, *seqs, last=6):
        verdict = judge.judge(topic(*seqs), 1, last)
        return {name: verdict[name] for name in ("lost", "duplicated", "reordered", "reordered_per_key") if verdict[name]}

    def test_a_whole_topic_is_clean(self):
        self.assertEqual(self.faults(2, 4, 6, 1, 3, 5), {})

    def test_a_lost_event_is_found(self):
        self.assertEqual(self.faults(1, 2, 3, 4, 6), {"lost": 1})

    def test_a_doubled_event_is_found(self):
        self.assertEqual(self.faults(1, 2, 3, 4, 5, 6, 6), {"duplicated": 1})

    def test_a_reordered_event_is_found(self):
        self.assertEqual(self.faults(1, 2, 5, 3, 4, 6), {"reordered": 1})
        self.assertEqual(self.faults(5, 1, 2, 3, 4, 6), {"reordered": 2, "reordered_per_key": 1})

    def test_a_chain_that_does_not_fit_is_found(self):
        records = list(topic(1, 2, 3, 4))
        records[2][3]["wattle-prev-seq"] = "2"
        self.assertEqual(judge.judge(records, 1, 4)["broken_links"], 1)

    def test_what_the_story_never_told_is_found(self):
        self.assertEqual(judge.judge(topic(1, 2, 3), 1, 2)["strangers"], 1)


if __name__ == "__main__":
    unittest.main()
