"""What samples come to, which targets are met, what is said when there is no figure."""

import json
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from progress import Progress, duration  # noqa: E402
from results import Figure, Results, Target, document, tell  # noqa: E402


def filled(**samples):
    results = Results(limits=("raw-veth", "shuttle", "shuttle-aes"))
    for contestant, values in samples.items():
        for value in values:
            results.put("speed", contestant.replace("_", "-"), value)
    return results


class Documents(unittest.TestCase):
    def test_a_figure_has_medians_spread_and_the_ratio_to_the_limit(self):
        results = filled(wattle=[5, 4, 9], shuttle=[10, 8, 9], shuttle_aes=[6], tinc=[1, 3], nebula=[2.5])
        figure = results.document(Figure("speed", "Gbit/s", "Speed"))
        self.assertEqual((figure["ours"], figure["n"], figure["min"], figure["max"]), (5, 3, 4, 9))
        self.assertEqual((figure["limit"], figure["ratio"]), (9, 0.556))
        self.assertEqual(figure["limits"], {"shuttle": 9, "shuttle-aes": 6})
        self.assertEqual(figure["peers"], {"tinc": 2, "nebula": 2.5})
        self.assertEqual(figure["ratios"], {"shuttle": 0.556, "shuttle-aes": 0.833, "best peer": 2.0})
        self.assertEqual(figure["spread"]["tinc"], [1, 3])

    def test_without_a_limit_the_ratio_is_to_the_best_peer(self):
        results = filled(wattle=[5], tinc=[1], nebula=[2])
        self.assertEqual(results.document(Figure("speed", "", ""))["ratio"], 2.5)
        self.assertEqual(results.document(Figure("speed", "", "", more_is_better=False))["ratio"], 5)

    def test_a_target_is_met_or_missed_and_never_guessed(self):
        figure = Figure("speed", "Gbit/s", "Speed", targets=(Target(0.5, "shuttle"), Target(6), Target(2, "absent")))
        targets = filled(wattle=[5], shuttle=[10]).document(figure)["targets"]
        self.assertEqual([target["met"] for target in targets], [True, False, None])
        self.assertEqual(targets[0]["got"], 0.5)
        less = Figure("speed", "ms", "Wait", more_is_better=False, targets=(Target(6), Target(0)))
        self.assertEqual([target["met"] for target in filled(wattle=[5]).document(less)["targets"]], [True, False])

    def test_what_could_not_be_measured_is_null_with_a_reason(self):
        results = filled(shuttle=[10])
        results.explain("speed", "it does not come up")
        results.explain("speed", "a later one")
        figure = results.document(Figure("speed", "Gbit/s", "Speed", targets=(Target(0.5, "shuttle"),)))
        self.assertIsNone(figure["ours"])
        self.assertIsNone(figure["ratio"])
        self.assertEqual(figure["reason"], "it does not come up")
        self.assertIsNone(figure["targets"][0]["met"])
        self.assertIn("it does not come up", tell(figure))

    def test_limits_and_peers_may_come_from_another_figure_but_ours_may_not(self):
        results = filled(wattle=[5], shuttle=[10], tinc=[1])
        results.put("quic", "wattle", 4)
        figure = results.document(Figure("quic", "Gbit/s", "QUIC", beside="speed"))
        self.assertEqual((figure["ours"], figure["limit"], figure["ratio"], figure["peers"]), (4, 10, 0.4, {"tinc": 1}))
        self.assertIsNone(results.document(Figure("none", "", "", beside="speed"))["ours"])

    def test_the_document_is_json_with_its_schema(self):
        whole = json.loads(json.dumps(document("dataplane", 0, [filled(wattle=[1]).document(Figure("speed", "", ""))])))
        self.assertEqual(whole["schema"], "wattle.bench/v1")
        self.assertEqual(whole["figures"][0]["id"], "speed")


class Remaining(unittest.TestCase):
    def test_the_estimate_follows_what_steps_take(self):
        clock = iter([0, 120, 120, 240, 240]).__next__
        progress = Progress([60] * 4, clock)
        progress.step("one")
        self.assertEqual(progress.remaining(), 240)
        progress.step("two")
        self.assertEqual(progress.remaining(), 180 * 1.5)

    def test_durations_are_words(self):
        self.assertEqual([duration(5), duration(65.4), duration(3600)], ["5 s", "1 min 05 s", "60 min 00 s"])


if __name__ == "__main__":
    unittest.main()
