"""Healing in a ring of five with a chord: what a stream of probes from r1 to r3 suffers while something happens to the network.

      r1 --- r2 --- r3
        \\   /        |       the stream's way is r1-r2-r3, the only one of two links; others have three
         r5 ------- r4

All links are veths, but for rows in which a delay changes: there the links of r1 are userspace wires, both, so that the way
over r2 stays the nearest. A cut is a silent drop at both ends. Rows: outage, node, loss, delay, tie, wave, cost, false; each
contestant runs them on a ring of its own.
"""

import json
import os
import random
import subprocess
import time

import bed
import routers
from lab.net import Lab, LabError, cut_at_once, wait_until
from lab.probe import STEP_NS, Stream
from progress import Progress
from results import Figure, Results, Target, say

RING = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r5"), ("r5", "r1"), ("r2", "r5")]
WIRES = [("r1", "r2"), ("r5", "r1")]
USED = ("r1", "r2")
FAR = ("r2", "r3")
# The TTL that a probe has after one router, at either end.
PRIMARY = (63, 63)

FIGURES = (
    Figure("outage_adjacent_ms", "ms", "Outage, the link beside the sender cut", False, targets=(Target(30),)),
    Figure("outage_remote_ms", "ms", "Outage, the link behind the relay cut", False, targets=(Target(30),)),
    Figure("outage_node_ms", "ms", "Outage, all links of the relay cut", False, targets=(Target(30),)),
    Figure("restore_lost_packets", "packets", "Lost when a link comes back", False, targets=(Target(0),)),
    Figure("loss20_moved_s", "s", "20 % loss: moved after", False, targets=(Target(0.5),)),
    Figure("loss20_changes", "changes", "20 % loss: changes of path", False, targets=(Target(1),)),
    Figure("loss20_residual_percent", "%", "20 % loss: loss after the move", False, targets=(Target(0.5),)),
    Figure("delay50_moved_s", "s", "+50 ms: moved after, a strictly nearer detour", False, targets=(Target(1),)),
    Figure("delay50_tie_moved_s", "s", "+50 ms: moved after, a detour that is only as near", False, targets=(Target(1),)),
    Figure("square_wave_moves", "changes", "Square wave of 30 ms either way, 1 Hz: changes of path", False, targets=(Target(4),)),
    Figure("idle_bytes_per_s", "B/s", "Sent per idle node", False, targets=(Target(250),)),
    Figure("traffic_bytes_per_s", "B/s", "Sent per node beside the packets, traffic on every link", False, targets=(Target(3000),)),
    Figure("cpu_percent", "%", "CPU per idle node", False, targets=(Target(0.5),)),
    Figure("rss_mib", "MiB", "Memory per node", False),
    Figure("false_downs", "downs", "Links given up, CPU oversubscribed four times", False, targets=(Target(0),)),
)


class Ring:
    """The network, with one contestant on it."""

    def __init__(self, contestant, wires=()):
        self.contestant, self.lab, self.processes = contestant, Lab(), {}
        self.hosts = {f"r{number}": self.lab.host(f"r{number}") for number in range(1, 6)}
        for number, (a, b) in enumerate(RING, 1):
            make = self.lab.wire if (a, b) in wires else self.lab.link
            make(self.hosts[a], self.hosts[b], f"10.1.{number}")

    def __enter__(self):
        self.contestant.start(self)
        self.wait_until_whole(120)
        return self

    def __exit__(self, *_):
        left = self.lab.close()
        if left:
            say(f"left behind: {left}")

    def address(self, name):
        return f"10.255.0.{name[1:]}"

    def interfaces(self, name):
        return [(f"to-{b if a == name else a}", b if a == name else a) for a, b in RING if name in (a, b)]

    def wait_until_whole(self, seconds):
        def whole():
            for name, host in self.hosts.items():
                others = [self.address(other) for other in self.hosts if other != name]
                # The addresses of links are not routed by all of them.
                if len(host.reaches(others, 300, self.address(name))) < len(others):
                    return False
            return True
        wait_until(whole, seconds, "not everybody reaches everybody", step=0.25)

    def stream(self, a="r1", b="r3", port=7000, step_ns=STEP_NS):
        return Stream(self.hosts[a], self.address(a), self.hosts[b], self.address(b), port, step_ns)

    def wait_for_primary(self, stream, seconds=150):
        def used():
            last = stream.ttls(time.monotonic_ns() - 400_000_000)
            return len(last) >= 20 and stream.flowing() and all(ttls == PRIMARY for _, ttls in last)
        wait_until(used, seconds, "the way r1-r2-r3 is not used", step=0.2)

    def wait_for_recovery(self, stream):
        try:
            wait_until(lambda: stream.flowing(60), self.contestant.patience, "no recovery", step=0.2)
        except LabError:
            say("    no recovery in time")

    def cpu(self):
        return sum(bed.cpu_seconds(pid) for pids in self.processes.values() for pid in pids)

    def memory(self):
        return sum(bed.resident_mib(pid) for pids in self.processes.values() for pid in pids) / len(self.hosts)

    def bytes_sent(self):
        return sum(count for host in self.hosts.values() for name, count in host.bytes_sent().items() if name.startswith("to-"))


def run(options):
    results = Results()
    recall(options.keep, results)
    wanted = [one() for one in routers.ALL if not options.contestants or one.name in options.contestants]
    progress = Progress([45.0] * len(wanted) * len(options.rows or ROWS))
    for contestant in wanted:
        for row in options.rows or ROWS:
            progress.step(f"{contestant.name}: {row}")
            reason = contestant.missing()
            if reason:
                say(f"  does not take part: {reason}")
                continue
            contestant.wire_is_dearer = row == "delay"
            for times in portions(contestant, row, options):
                fresh = Results()
                try:
                    with Ring(contestant, WIRES if row in WITH_DELAY else ()) as ring:
                        ROWS[row](ring, fresh, options, times)
                except (LabError, OSError, subprocess.SubprocessError) as error:
                    say(f"  {contestant.name}: {row}: {error}")
                keep(options.keep, fresh, results)
    progress.finish()
    documents = [results.document(figure) for figure in FIGURES]
    ours = [document for document in documents if results.samples.get(document["id"])]
    for document in ours:
        verdict(document)
    return ours, all(document["ours"] is not None for document in ours)


def portions(contestant, row, options):
    """How often the row is measured on each of the rings that it takes: who distrusts a link for longer each time that it
    fails gets a fresh ring after a few."""
    wanted = {"outage": options.cuts, "node": options.cuts, "loss": options.repeat, "delay": options.repeat, "tie": options.repeat}
    left, most = wanted.get(row, 1), contestant.faults_per_ring
    while left > 0:
        yield min(left, most)
        left -= most


# What the worst outage may be; the worst of the others may be what their median may.
WORST_OUTAGE = 60
OUTAGES = ("outage_adjacent_ms", "outage_remote_ms", "outage_node_ms")
BY_THE_WORST = ("restore_lost_packets", "loss20_moved_s", "loss20_changes", "loss20_residual_percent", "delay50_moved_s", "delay50_tie_moved_s")


def verdict(document):
    """Medians are judged by the figures' targets; the worst sample is judged, too."""
    if document["id"] in OUTAGES + BY_THE_WORST and document["max"] is not None:
        worst = WORST_OUTAGE if document["id"] in OUTAGES else document["targets"][0]["at_most"]
        document["targets"].append({"at_most": worst, "times": "max", "got": document["max"], "met": document["max"] <= worst})


def keep(path, fresh, results):
    for figure, by_name in fresh.samples.items():
        for name, values in by_name.items():
            for value in values:
                results.put(figure, name, value)
                if path:
                    with open(path, "a") as out:
                        out.write(json.dumps([figure, name, value]) + "\n")


def recall(path, results):
    """Samples of former runs, so that a long table may be measured in several sittings."""
    if path and os.path.exists(path):
        with open(path) as lines:
            for line in lines:
                results.put(*json.loads(line))


def row_outage(ring, results, options, times):
    stream = ring.stream()
    for _ in range(times):
        for figure, link in (("outage_adjacent_ms", USED), ("outage_remote_ms", FAR)):
            outage(ring, stream, results, figure, [link])
    stream.stop()


def row_node(ring, results, options, times):
    stream = ring.stream()
    for _ in range(times):
        outage(ring, stream, results, "outage_node_ms", [link for link in RING if "r2" in link])
    stream.stop()


def outage(ring, stream, results, figure, links):
    name = ring.contestant.name
    ring.wait_for_primary(stream)
    time.sleep(0.3 + random.random())
    cut_at = time.monotonic_ns()
    cut_at_once([ring.lab.between(*link) for link in links])
    time.sleep(1.2)
    ring.wait_for_recovery(stream)
    result = stream.outage(cut_at, time.monotonic_ns() - 300_000_000)
    results.put(figure, name, result["outage_ms"])
    healed_at = time.monotonic_ns()
    for link in links:
        ring.lab.between(*link).restore()
    ring.wait_for_primary(stream)
    time.sleep(0.5)
    lost = stream.outage(healed_at, time.monotonic_ns() - 300_000_000)["lost"]
    results.put("restore_lost_packets", name, lost)
    say(f"    {figure} {result}, restore lost {lost}")


def watched(ring, stream, since_ns, until_ns):
    """After how many seconds both directions left the first way for good, how often the path changed."""
    paths = [(at, ttls) for at, ttls in stream.ttls(since_ns) if at < until_ns]
    # A probe or two may go around on suspicion before the network decides.
    stayed = max((number for number, (_, ttls) in enumerate(paths) if 63 in ttls), default=-1)
    moved = paths[stayed + 1][0] if stayed + 1 < len(paths) else None
    # Both directions move one after the other: within a tenth of a second that is one change.
    changes, last, changed_at = 0, PRIMARY, 0
    for at, ttls in paths:
        if ttls != last:
            changes += at - changed_at > 100_000_000
            last, changed_at = ttls, at
    return None if moved is None else (moved - since_ns) / 1e9, changes


def row_loss(ring, results, options, times):
    name, stream = ring.contestant.name, ring.stream()
    for _ in range(times):
        ring.wait_for_primary(stream)
        time.sleep(1 + random.random())
        begun = time.monotonic_ns()
        ring.lab.between(*USED).lose(20)
        time.sleep(options.loss_seconds)
        ended = time.monotonic_ns() - 300_000_000
        ring.lab.between(*USED).restore()
        moved, changes = watched(ring, stream, begun, ended)
        residual = stream.outage(ended - 10_000_000_000, ended)["lost"] / 10
        # Who never moves is counted with the whole time.
        results.put("loss20_moved_s", name, options.loss_seconds if moved is None else moved)
        results.put("loss20_changes", name, changes)
        results.put("loss20_residual_percent", name, residual)
        say(f"    moved {moved}, {changes} changes, {residual:.2f} % lost in the last 10 s")
    stream.stop()


def row_delay(ring, results, options, times):
    delayed(ring, results, options, times, "delay50_moved_s")


def row_tie(ring, results, options, times):
    delayed(ring, results, options, times, "delay50_tie_moved_s")


def delayed(ring, results, options, times, figure):
    stream = ring.stream()
    wire = ring.lab.between(*USED)
    for _ in range(times):
        ring.wait_for_primary(stream, 300)
        time.sleep(1 + random.random())
        begun = time.monotonic_ns()
        wire.delay(25_000)
        time.sleep(options.delay_seconds)
        moved, changes = watched(ring, stream, begun, time.monotonic_ns())
        wire.delay(0)
        results.put(figure, ring.contestant.name, options.delay_seconds if moved is None else moved)
        say(f"    {figure}: {moved}, {changes} changes")
    stream.stop()


def row_wave(ring, results, options, times):
    stream = ring.stream()
    wire = ring.lab.between(*USED)
    ring.wait_for_primary(stream)
    begun = time.monotonic_ns()
    for half in range(int(options.wave_seconds * 2)):
        # The round trip swings by 30 ms around 30 ms.
        wire.delay(30_000 if half % 2 == 0 else 0)
        due = begun + (half + 1) * 500_000_000
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
    _, changes = watched(ring, stream, begun, time.monotonic_ns() - 300_000_000)
    wire.delay(0)
    stream.stop()
    results.put("square_wave_moves", ring.contestant.name, changes)
    say(f"    {changes} changes in {options.wave_seconds} s")


def row_cost(ring, results, options, times):
    name, nodes = ring.contestant.name, len(ring.hosts)
    time.sleep(options.settle)
    sent, used, begun = ring.bytes_sent(), ring.cpu(), time.monotonic()
    time.sleep(options.seconds_idle)
    elapsed = time.monotonic() - begun
    figures = {"idle_bytes_per_s": (ring.bytes_sent() - sent) / elapsed / nodes,
               "cpu_percent": (ring.cpu() - used) / elapsed / nodes * 100, "rss_mib": ring.memory()}
    # At two rates, so that what does not grow with the packets shows.
    windows = [traffic(ring, step_ns, options.seconds_idle) for step_ns in (STEP_NS, STEP_NS // 2)]
    (slow, few), (fast, many) = windows
    figures["traffic_bytes_per_s"] = (slow * many - fast * few) / (many - few) / nodes
    for figure, value in figures.items():
        results.put(figure, name, value)
    say("    " + ", ".join(f"{figure} {value:.2f}" for figure, value in figures.items()))


def traffic(ring, step_ns, seconds):
    """Bytes and packets each second on all links together, with a stream over each."""
    streams = [ring.stream(a, b, 7100 + number, step_ns) for number, (a, b) in enumerate(RING)]
    # A dozen programs that start are load, which prices tell of for some seconds.
    time.sleep(10)
    before, begun = ring.bytes_sent(), time.monotonic_ns()
    time.sleep(seconds)
    sent, ended = ring.bytes_sent() - before, time.monotonic_ns()
    packets = 0
    for stream in streams:
        stream.stop()
        by_number, answered = stream.read()
        window = [number for number, at in by_number.items() if begun <= at < ended]
        packets += len(window) + sum(number in answered for number in window)
    elapsed = (ended - begun) / 1e9
    return sent / elapsed, packets / elapsed


def row_false(ring, results, options, times):
    stream = ring.stream()
    ring.wait_for_primary(stream)
    time.sleep(options.settle)
    before = ring.contestant.event_count(ring)
    hogs = [ring.lab.spawn(["sh", "-c", "while :; do :; done"]) for _ in range(4 * (os.cpu_count() or 1))]
    time.sleep(options.false_seconds)
    for hog in hogs:
        hog.kill()
        hog.wait()
    time.sleep(1)
    after = ring.contestant.event_count(ring)
    stream.stop()
    if before is None or after is None:
        return say("    keeps no account of lost adjacencies")
    results.put("false_downs", ring.contestant.name, after - before)
    say(f"    {after - before} false downs in {options.false_seconds} s, {stream.outage(0, time.monotonic_ns())}")


WITH_DELAY = ("delay", "tie", "wave")
ROWS = {"outage": row_outage, "node": row_node, "loss": row_loss, "delay": row_delay, "tie": row_tie, "wave": row_wave,
        "cost": row_cost, "false": row_false}
