"""What only time shows: stalls and memory through rekeys and key rolls, memory under overload, packets that go missing, twice or astray.

Three phases on two nodes, each contestant by itself: four TCP streams for minutes; datagrams at three times the loss-free rate;
numbered datagrams of several flows at 80 % of it.
"""

import json
import os
import subprocess
import sys
import threading
import time

import dataplane
import limits
import load
import ours
import peers
from bed import Bed
from lab.net import LabError
from progress import Progress
from results import OURS, Figure, Results, Target, say

INTERVAL = 0.1
STREAMS = 4
FLOWS = 8
SHARE_OF_LOSSFREE = 0.8
OVERLOAD = 3
OVERLOAD_SECONDS = 10
# Memory grows while buffers fill for the first time; what comes after this share of the run is a leak.
WARM = 1 / 3
# Counters that tell that sessions and keys were exchanged while the streams ran.
TELLING = ("handshake", "roll", "rekey")

FIGURES = (
    Figure("soak_stalls", "", "Times that one stream of four received nothing for 100 ms or more", more_is_better=False, targets=(Target(0),)),
    Figure("soak_tunnel_stalls", "", "Times that all four streams did", more_is_better=False, targets=(Target(0),)),
    Figure("soak_longest_stall_ms", "ms", "Longest time without a byte of one stream", more_is_better=False),
    Figure("soak_gbps", "Gbit/s", "TCP, four streams, over the whole time"),
    Figure("soak_handshakes", "", "Handshakes during that time, both nodes"),
    Figure("soak_rss_mib", "MiB", "Largest memory of one node during that time", more_is_better=False),
    Figure("soak_rss_mib_per_hour", "MiB/h", "Slope of that memory after the first third", more_is_better=False),
    Figure("overload_rss_mib", "MiB", "Largest memory of one node at three times the loss-free rate", more_is_better=False),
    Figure("numbered_rate_kpps", "1000 packets/s", "Rate of the numbered packets"),
    Figure("numbered_sent", "", "Numbered packets sent"),
    Figure("numbered_lost", "", "of them lost", more_is_better=False, targets=(Target(0),)),
    Figure("numbered_doubled", "", "of them doubled", more_is_better=False, targets=(Target(0),)),
    Figure("numbered_reordered", "", "of them behind a later one of their flow", more_is_better=False, targets=(Target(0),)),
)


def run(options):
    results = Results(limits=dataplane.SHUTTLES)
    known = {one.name: one for one in (*limits.ALL[1:], *peers.DEBIAN, *peers.FROM_CRATES)}
    asked = [dataplane.named(name, known) for name in options.peers or ()]
    contestants = [ours.Wattle, *dataplane.able(asked, build=True)]
    numbered = options.packets / 60_000
    progress = Progress([options.minutes * 60 + 5, 10 + OVERLOAD_SECONDS + numbered] * len(contestants))
    for contestant in contestants:
        one(contestant(), results, options, progress)
    progress.finish()
    documents = [results.document(figure) for figure in FIGURES]
    return documents, all(document["ours"] is not None for document in documents)


def one(contestant, results, options, progress):
    name = contestant.name

    def put(figure, value):
        results.put(figure, name, value)

    with Bed(["a", "b"], mtu=dataplane.MTU["direct"]) as bed:
        try:
            progress.step(f"{name}: {STREAMS} streams for {options.minutes:g} min")
            bed.chain().start(contestant)
            streams(bed, options.minutes * 60, put, is_ours=name == OURS)
            progress.step(f"{name}: overload, then {options.packets} numbered packets")
            datagrams(bed, options.packets, put)
        except (LabError, OSError, subprocess.SubprocessError) as error:
            say(f"  {name}: {error}\n{bed.tail_of_logs()}")
            if name == OURS:
                for figure in FIGURES:
                    results.explain(figure.id, str(error))


def streams(bed, seconds, put, is_ours):
    counted = counters(bed) if is_ours else {}
    with Memory(bed) as memory:
        report = receive_streams(bed, seconds)
    stalls = Stalls(report["intervals"])
    put("soak_stalls", stalls.of_one_stream)
    put("soak_tunnel_stalls", stalls.of_all)
    put("soak_longest_stall_ms", stalls.longest_ms)
    put("soak_gbps", report["end"]["sum_received"]["bits_per_second"] / 1e9)
    put("soak_rss_mib", memory.largest())
    put("soak_rss_mib_per_hour", memory.slope_per_hour())
    say(f"  {stalls.of_one_stream} stalls, longest {stalls.longest_ms:.0f} ms; memory at most {memory.largest():.1f} MiB, "
        f"{memory.slope_per_hour():+.2f} MiB/h")
    if is_ours:
        grown = {key: value - counted.get(key, 0) for key, value in counters(bed).items()}
        put("soak_handshakes", sum(value for key, value in grown.items() if "handshake" in key))
        say(f"  while they ran: {grown}")


def receive_streams(bed, seconds):
    """iperf3's report of the receiving end, an interval each tenth of a second."""
    path = os.path.join(bed.last.folder, "iperf3.json")
    with open(path, "wb") as out:
        server = bed.last.spawn(["iperf3", "-s", "-1", "-p", str(load.PORT), "-J", "-i", str(INTERVAL)], stdout=out)
    try:
        time.sleep(0.3)
        client = bed.first.run(["iperf3", "-c", bed.target, "-p", str(load.PORT), "-t", str(seconds), "-P", str(STREAMS), "-J", "-i", "0"],
                               check=False, timeout=seconds + 60)
        load.received(client.stdout)
        server.wait(30)
    finally:
        load.end(server)
    with open(path) as text:
        return json.load(text)


class Stalls:
    """Runs of intervals in which nothing arrived. The last interval is the end of the test and says nothing."""

    def __init__(self, intervals):
        rows = [[stream["bytes"] for stream in interval["streams"]] for interval in intervals[:-1]]
        lengths = [interval["sum"]["seconds"] for interval in intervals[:-1]]
        runs = [run for column in zip(*rows) for run in runs_of_nothing(column, lengths)]
        self.of_one_stream = len(runs)
        self.of_all = len(runs_of_nothing([sum(row) for row in rows], lengths))
        self.longest_ms = max(runs, default=0.0) * 1000


def runs_of_nothing(amounts, lengths):
    """Seconds of each run of zeroes."""
    runs, current = [], 0.0
    for amount, length in zip(amounts, lengths):
        if amount:
            if current:
                runs.append(current)
            current = 0.0
        else:
            current += length
    return runs + ([current] if current else [])


class Memory:
    """Samples the memory of the node that has most, once a second, while the block runs."""

    def __init__(self, bed):
        self.bed, self.samples, self.over = bed, [], threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self):
        self.begun = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def sample(self):
        while True:
            self.samples.append((time.monotonic() - self.begun, self.bed.largest_resident_mib()))
            if self.over.wait(1):
                return

    def largest(self):
        return max(mib for _, mib in self.samples)

    def slope_per_hour(self):
        last = self.samples[-1][0]
        return 3600 * slope([(at, mib) for at, mib in self.samples if at >= last * WARM])


def slope(points):
    """Least squares; 0 for fewer than two moments."""
    count = len(points)
    mean_x, mean_y = (sum(point[axis] for point in points) / max(count, 1) for axis in (0, 1))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def datagrams(bed, count, put):
    with load.Datagrams(bed) as instrument:
        rate = instrument.largest_lossfree(dataplane.LARGE).packets_per_second
        say(f"  loss-free: {rate / 1000:.1f} kpps")
        if not rate:
            raise LabError("no rate is free of loss")
        with Memory(bed) as memory:
            instrument.send(dataplane.LARGE, rate * OVERLOAD, rate * OVERLOAD * OVERLOAD_SECONDS, FLOWS)
        put("overload_rss_mib", memory.largest())
        asked = rate * SHARE_OF_LOSSFREE
        sent, arrived = instrument.send(dataplane.LARGE, asked, count, FLOWS)
    if sent["sent"] < count:
        raise LabError(f"only {sent['sent']} of {count} numbered packets could be sent in time")
    flows = arrived["flows"].values()
    put("numbered_rate_kpps", sent["sent"] / sent["seconds"] / 1000)
    put("numbered_sent", sent["sent"])
    put("numbered_lost", sent["sent"] - arrived["arrived"])
    put("numbered_doubled", sum(flow["doubled"] for flow in flows))
    put("numbered_reordered", sum(flow["reordered"] for flow in flows))
    say(f"  of {sent['sent']} packets {sent['sent'] - arrived['arrived']} lost ({arrived['overrun']} of them at the sink's own socket), "
        f"{sum(flow['doubled'] for flow in flows)} doubled, {sum(flow['reordered'] for flow in flows)} reordered")


def counters(bed):
    """Counters of all agents that tell of handshakes and keys, added up."""
    read = f"import urllib.request as r, sys; sys.stdout.write(r.urlopen('http://{ours.METRICS}/metrics', timeout=5).read().decode())"
    total = {}
    for host in bed.hosts.values():
        for line in host.run([sys.executable, "-c", read]).stdout.splitlines():
            name, _, value = line.partition(" ")
            if not line.startswith("#") and any(word in name for word in TELLING):
                total[name] = total.get(name, 0) + int(float(value))
    return total
