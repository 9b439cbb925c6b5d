"""Which steps a choice of figures needs, what instruments read, what charts show."""

import os
import sys
import types
import unittest
import xml.etree.ElementTree as xml
from unittest import mock

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [HERE, os.path.dirname(HERE), os.path.join(HERE, "contestants")]

import dataplane  # noqa: E402
import limits  # noqa: E402
import load  # noqa: E402
import ours  # noqa: E402
import peers  # noqa: E402
import plot  # noqa: E402
import sim  # noqa: E402
import soak  # noqa: E402
import spf  # noqa: E402
from lab.net import LabError  # noqa: E402
from results import Results  # noqa: E402

ALL = [*limits.ALL, ours.Wattle, *peers.DEBIAN, *peers.FROM_CRATES]
ASKED_FOR = """tcp1_direct_gbps tcp4_direct_gbps tcp1_relay_gbps tcp4_relay_gbps udp1372_lossfree_kpps udp200_lossfree_kpps
    rtt_idle_p99_us rtt_loaded_p99_ms cpu_s_per_gb_direct cpu_s_per_gb_relay rss_mib tcp1_quic_gbps""".split()


def agent(reason):
    """Our agent, which has every option, or none for the reason given."""
    return type("Agent", (ours.Wattle,), {"missing": lambda self: reason})


def steps_of(*words, optional=None, results=None):
    """Steps by bed and contestant; no program is asked what it has."""
    with mock.patch.dict(dataplane.OPTIONAL, {kind: agent(optional) for kind in dataplane.OPTIONAL}):
        steps = dataplane.plan(dataplane.chosen(list(words)), ALL, results or Results())
    return {(step.kind, step.contestant.name): step.measurements for step in steps}


class Plan(unittest.TestCase):
    def test_every_figure_that_was_asked_for_is_in_the_table(self):
        self.assertLessEqual(set(ASKED_FOR), {figure.id for figure in dataplane.FIGURES})

    def test_everything_is_measured_in_the_beds_a_contestant_can_stand_on(self):
        steps = steps_of()
        self.assertEqual(steps["direct", "wattle"], tuple(dataplane.MEASUREMENTS))
        self.assertEqual(steps["relay", "wattle"], ("rtt", "tcp1", "tcp4", "udp1372"))
        self.assertIn(("relay", "nebula"), steps)
        self.assertNotIn(("relay", "fastd"), steps)
        self.assertNotIn("rss", steps["direct", "raw-veth"])

    def test_one_figure_needs_one_measurement_and_its_limit(self):
        self.assertEqual(steps_of("tcp4_direct_gbps")["direct", "tinc"], ("tcp4",))
        relay = steps_of("tcp1_relay_gbps")
        self.assertEqual(relay["relay", "wattle"], ("tcp1",))
        self.assertEqual(relay["direct", "shuttle"], ("tcp1",))
        self.assertNotIn(("direct", "wattle"), relay)
        quic = steps_of("quic")
        self.assertEqual((quic["quic", "wattle"], quic["direct", "shuttle"]), (("tcp1",), ("tcp1",)))

    def test_what_the_agent_lacks_is_not_measured_and_no_failure(self):
        results = Results()
        self.assertEqual(steps_of("quic", optional="it has no QUIC", results=results), {})
        self.assertEqual(results.lacking, {"tcp1_quic_gbps"})
        self.assertEqual(results.document(dataplane.by_id("tcp1_quic_gbps"))["reason"], "it has no QUIC")

    def test_memory_alone_still_comes_after_a_load(self):
        self.assertEqual(steps_of("rss_mib")["direct", "wattle"], ("tcp1", "rss"))

    def test_an_unknown_figure_is_refused_with_those_that_exist(self):
        with self.assertRaisesRegex(LabError, "tpc1.*tcp1_direct_gbps"):
            dataplane.chosen(["tpc1"])

    def test_a_relayed_figure_is_held_against_the_direct_shuttle(self):
        results = Results(limits=("shuttle", dataplane.CHAIN))
        for figure, who, value in (("tcp1_direct_gbps", "shuttle", 8), ("tcp1_relay_gbps", dataplane.CHAIN, 5), ("tcp1_relay_gbps", "wattle", 4)):
            results.put(figure, who, value)
        document = dataplane.finished(dataplane.by_id("tcp1_relay_gbps"), results)
        self.assertEqual((document["limit"], document["ratio"], document["ratios"][dataplane.CHAIN]), (8, 0.5, 0.8))
        self.assertTrue(document["targets"][0]["met"])


class Instruments(unittest.TestCase):
    def test_lost_pings_do_not_count_as_round_trips(self):
        self.assertEqual(load.percentiles("10.200.0.2 : 0.20 - 0.10 - 0.40\n"), (200, 400))
        with self.assertRaises(LabError):
            load.percentiles("10.200.0.2 : - - -\n")

    def test_an_iperf3_that_failed_is_an_error_and_no_figure(self):
        self.assertEqual(load.received('{"end": {"sum_received": {"bits_per_second": 2e9, "bytes": 5}}}'), (2.0, 5))
        for text in ("", '{"error": "refused"}', '{"end": {}}', '{"end": {"sum_received": {"bits_per_second": 0, "bytes": 0}}}'):
            with self.subTest(text), self.assertRaises(LabError):
                load.received(text)

    def test_stalls_are_counted_by_stream_and_for_all(self):
        rows = [(5, 5), (0, 5), (0, 5), (5, 5), (0, 0), (5, 5), (0, 0)]
        intervals = [{"streams": [{"bytes": size} for size in row], "sum": {"seconds": 0.1}} for row in rows]
        stalls = soak.Stalls(intervals)
        self.assertEqual((stalls.of_one_stream, stalls.of_all), (3, 1))
        self.assertAlmostEqual(stalls.longest_ms, 200)

    def test_the_slope_of_memory_leaves_the_beginning_out(self):
        memory = soak.Memory(types.SimpleNamespace())
        memory.samples = [(0, 0), (1, 50)] + [(second, 60 + second / 60) for second in range(200, 600)]
        self.assertAlmostEqual(memory.slope_per_hour(), 60, delta=0.01)
        self.assertEqual(soak.slope([(1, 2)]), 0)


class Charts(unittest.TestCase):
    def figure(self, **more):
        return {"id": "speed", "title": "Speed & more", "unit": "Gbit/s", "better": "more", "ours": 5.2, "peers": {"tinc": 0.4, "nebula": 0.7},
                "limit": 7.1, "limits": {"raw-veth": 18.2, "shuttle": 7.1}, "n": 5, "min": 4.9, "max": 5.6,
                "spread": {"wattle": [4.9, 5.6], "tinc": [0.3, 0.5]}, **more}

    def texts(self, figure):
        root = xml.fromstring(plot.chart(figure))
        return [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]

    def test_a_chart_has_a_title_a_unit_a_bar_for_each_and_the_limit(self):
        texts = self.texts(self.figure())
        for wanted in ("Speed & more", "wattle", "tinc", "nebula", "shuttle", "raw-veth", "limit 7.1", "5.2"):
            self.assertIn(wanted, texts)
        self.assertTrue(any("Gbit/s; more is better" in words for words in texts))

    def test_the_best_comes_first_whichever_way_is_better(self):
        names = [name for name, *_ in plot.ordered(self.figure())]
        self.assertEqual(names, ["wattle", "nebula", "tinc", "raw-veth", "shuttle"])
        names = [name for name, *_ in plot.ordered(self.figure(better="less"))]
        self.assertEqual(names[:3], ["tinc", "nebula", "wattle"])

    def test_nothing_is_drawn_outside_of_the_picture(self):
        for more in ({}, {"ours": 0, "min": 0, "max": 0}, {"peers": {}, "limit": None, "limits": {}, "ours": 123456.0, "min": 1, "max": 200000.0}):
            root = xml.fromstring(plot.chart(self.figure(**more)))
            width, height = float(root.get("width")), float(root.get("height"))
            for element in root:
                for name, most in (("x", width), ("x1", width), ("x2", width), ("y", height), ("y1", height), ("y2", height)):
                    if element.get(name):
                        self.assertTrue(0 <= float(element.get(name)) <= most, (name, element.attrib))

    def test_axes_have_round_marks_up_to_the_longest_bar(self):
        for most in (0, 0.003, 0.9, 1, 7.1, 18.2, 999, 123456):
            marks = plot.marks(most)
            self.assertGreaterEqual(marks[-1], most)
            self.assertTrue(2 <= len(marks) <= 10, (most, marks))

    def test_a_course_over_time_has_a_curve_for_each_name_inside_the_picture(self):
        drawn = xml.fromstring(plot.course("Holes & circles", 5, 400, **{"in a hole": [3, 2, 0, 0], "in circles": [0, 1, 0, 0]}))
        curves = [element.get("points").split() for element in drawn if element.tag.endswith("polyline")]
        self.assertEqual([len(points) for points in curves], [4, 4])
        for x, y in (map(float, point.split(",")) for points in curves for point in points):
            self.assertTrue(0 <= x <= float(drawn.get("width")) and 0 <= y <= float(drawn.get("height")), (x, y))


class Programs(unittest.TestCase):
    """What the programs that measure by themselves say, as figures."""

    def figures(self, bench, options, **answers):
        said = mock.patch.object(bench.program, "answer", lambda name, *words: answers[words[0] if name == "wattle-spf" else "sim"])
        with said, mock.patch.object(bench, "say", lambda text: None, create=True):
            documents, whole = bench.run(types.SimpleNamespace(**options))
        self.assertTrue(whole)
        return {document["id"]: document for document in documents}

    def test_shortest_paths_are_milliseconds_beside_their_peers_and_changes_of_all_kinds_one_median(self):
        micros = {"full": [900.0, 1100.0, 1000.0], "petgraph": [4000.0], "binary_heap": [2000.0], "forest_full": [9000.0], "forest_update": [2.0],
                  "link_fails": [1.0, 9.0], "link_returns": [1.0, 1.0], "link_dearer": [4.0, 1.0], "link_cheaper": [1.0, 1.0]}
        paths = {"nodes": 10_000, "links": 40_000, "micros": micros}
        backups = {"maps": 2, "affected": 200, "arrive": 199, "far": 3, "loops": 1, "below": {"zoo/a": 99.0}}
        options = {"nodes": None, "seed": 1, "runs": 3, "graphs": "maps"}
        found = self.figures(spf, options, paths=paths, backups=backups)
        self.assertEqual(found["full_10k_ms"]["ours"], 1.0)
        self.assertEqual(found["full_10k_ms"]["peers"], {"petgraph": 4.0, "binary heap": 2.0})
        self.assertEqual((found["incremental_10k_us"]["ours"], found["incremental_10k_us"]["n"]), (1.0, 8))
        self.assertEqual([target["met"] for target in found["full_10k_ms"]["targets"]], [True])
        self.assertEqual((found["backup_coverage_percent"]["ours"], found["backup_coverage_percent"]["targets"][0]["met"]), (99.5, False))

    def test_a_fleet_is_judged_with_its_signatures_and_has_a_course_over_time(self):
        outcome = {"cut": 10, "pairs": 400, "converged_ms": 300, "path_changes": 7, "messages": 8, "bytes": 9, "longest_outage_ms": 120,
                   "median_outage_ms": 90, "ever_circled": 0, "holes": [1, 0], "circles": [0, 0], "tick_ms": 5}
        answer = {"nodes": 1000, "start_ms": 900, "failures": [outcome],
                  "steady": {"payload_bytes_per_s": 400, "wire_bytes_per_s": 900, "datagrams_per_s": 9, "link_state_bytes_per_s": 5},
                  "record": {"messages": 1200, "bytes": 1, "with_acknowledgements": 2000, "everybody_after_ms": 40},
                  "restart": {"records": 3000, "first_link_after_ms": 20, "synced_after_first_link_ms": 150.0, "signatures_ms_of_this_machine": 140.0,
                              "messages": 1, "bytes": 2}}
        answer["crash"] = answer["restart"] | {"first_link_after_ms": 2000, "synced_after_first_link_ms": 60.0}
        found = self.figures(sim, {"nodes": None, "seed": 1, "topology": None, "map": None}, sim=answer)
        self.assertEqual((found["sim_restart_ms"]["ours"], found["sim_restart_ms"]["targets"][0]["met"]), (290.0, False))
        self.assertEqual((found["sim_crash_ms"]["ours"], found["sim_crash_ms"]["targets"][0]["met"]), (200.0, True))
        self.assertEqual(found["sim_start_ms"]["ours"], 900)
        in_sync = self.figures(sim, {"nodes": None, "seed": 1, "topology": None, "map": None}, sim=answer | {"start_ms": None})
        self.assertNotIn("sim_start_ms", in_sync)
        self.assertEqual(found["sim_record_messages"]["targets"][0]["at_most"], 1300.0)
        self.assertEqual(found["sim_outage_10_ms"]["series"]["in a hole"], [1, 0])


if __name__ == "__main__":
    unittest.main()
