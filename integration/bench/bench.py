#!/usr/bin/env python3
"""Measures Wattle beside its peers in network namespaces on one machine: run it through tools/bench.

    bench.py dataplane   TCP, CPU and ping, direct and relayed, against the limit, wireguard-go, tinc, nebula
    bench.py idle        bytes, CPU and memory of a mesh of 6 and of 30 nodes that does nothing
    bench.py routing     outage after silent cuts in a ring of five with a chord

Everything shares the machine's cores, so only figures of one run compare. Rounds go over all contestants in turn. With
--json the last line of stdout is one document `wattle.bench/v1`; progress is on stderr.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.join(HERE, "contestants")]

import peers  # noqa: E402
from lab import mesh as wattle_mesh  # noqa: E402
from lab.net import Lab, LabError, wait_until  # noqa: E402
from lab.probe import Stream  # noqa: E402


def say(text):
    print(text, file=sys.stderr, flush=True)


class Bed:
    """Hosts with an underlay between them, and one contestant on it."""

    def __init__(self, nodes, mtu, keepalive=False):
        self.lab, self.nodes, self.mtu, self.keepalive = Lab(), nodes, mtu, keepalive
        self.hosts = {node: self.lab.host(node) for node in nodes}
        self.inner = {node: f"10.200.0.{number}" for number, node in enumerate(nodes, 1)}
        self.dial = {}
        self.processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        left = self.lab.close()
        if left:
            say(f"left behind: {left}")

    def chain(self):
        for number, (a, b) in enumerate(zip(self.nodes, self.nodes[1:]), 1):
            self.lab.link(self.hosts[a], self.hosts[b], f"10.99.{number}")
            self.dial[a, b], self.dial[b, a] = f"10.99.{number}.2", f"10.99.{number}.1"
        return self

    def on_lan(self):
        self.lab.lan(list(self.hosts.values()), "10.99.0")
        for number, b in enumerate(self.nodes, 1):
            self.dial.update({(a, b): f"10.99.0.{number}" for a in self.nodes if a != b})
        return self

    def underlay(self, a, b):
        return self.dial.get((a, b))

    def daemon(self, node, command, **more):
        log = os.path.join(self.hosts[node].folder, "daemon.log")
        self.processes.setdefault(node, []).append(self.hosts[node].spawn(command, log=log, **more))

    def start(self, contestant):
        contestant.start(self)
        first, last = self.hosts[self.nodes[0]], self.inner[self.nodes[-1]]
        wait_until(lambda: last in first.reaches([last]), 60, f"{contestant.name}: no packet from end to end", step=0.2)
        return self

    def all_reach(self, seconds=90):
        missing = set(self.nodes)

        def whole():
            for node in sorted(missing):
                others = [address for other, address in self.inner.items() if other != node]
                if len(self.hosts[node].reaches(others, 1000)) == len(others):
                    missing.discard(node)
            return not missing

        wait_until(whole, seconds, f"no full reachability from {sorted(missing)}", step=0.5)

    def pids(self):
        return [process.pid for processes in self.processes.values() for process in processes]

    def cpu_seconds(self):
        return sum(cpu_seconds(pid) for pid in self.pids())

    def resident_mib(self):
        return sum(resident_mib(pid) for pid in self.pids())


def cpu_seconds(pid):
    """Nanoseconds on a CPU of all threads: ticks of 10 ms would hide what an idle process does."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
                total += int(stat.read().split()[0])
        except FileNotFoundError:
            pass
    return total / 1e9


def resident_mib(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def tcp(bed, streams, seconds):
    """One iperf3 run from the first node to the last: Gbit/s received, CPU seconds of the tunnel per GB."""
    first, last = bed.hosts[bed.nodes[0]], bed.hosts[bed.nodes[-1]]
    server = last.spawn(["iperf3", "-s", "-1", "-p", "5201"])
    time.sleep(0.3)
    before = bed.cpu_seconds()
    answer = json.loads(first.run(["iperf3", "-c", bed.inner[bed.nodes[-1]], "-p", "5201", "-t", str(seconds),
                                   "-P", str(streams), "-J"], check=False, timeout=seconds + 40).stdout)
    used = bed.cpu_seconds() - before
    server.kill()
    server.wait()
    if "error" in answer:
        raise LabError(f"iperf3: {answer['error']}")
    received = answer["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, used / max(received["bytes"] / 1e9, 1e-9)


def pings(bed, count=300):
    """Median and 99th percentile of idle round trips in microseconds."""
    first, target = bed.hosts[bed.nodes[0]], bed.inner[bed.nodes[-1]]
    answer = first.run(["fping", "-C", str(count), "-p", "5", "-t", "1000", "-q", target], check=False)
    trips = sorted(float(word) * 1000 for word in answer.stderr.rsplit(" : ", 1)[1].split() if word != "-")
    if not trips:
        raise LabError("no ping came back")
    return trips[len(trips) // 2], trips[min(len(trips) - 1, int(len(trips) * 0.99))]


class Results:
    """Samples by figure and contestant."""

    def __init__(self):
        self.samples = {}

    def put(self, figure, contestant, value):
        self.samples.setdefault(figure, {}).setdefault(contestant, []).append(value)

    def figure(self, name, unit, more_is_better=True):
        samples = self.samples.get(name, {})
        ours = samples.get("wattle", [])
        medians = {who: round(statistics.median(values), 4) for who, values in samples.items()}
        limit = medians.get("limit")
        others = {who: value for who, value in medians.items() if who not in ("wattle", "limit")}
        against = limit if limit else (max if more_is_better else min)(others.values(), default=None)
        value = medians.get("wattle")
        return {"id": name, "unit": unit, "ours": value, "peers": others, "limit": limit,
                "ratio": round(value / against, 3) if value is not None and against else None,
                "n": len(ours), "min": round(min(ours), 4) if ours else None, "max": round(max(ours), 4) if ours else None}


def dataplane(options):
    results = Results()
    direct = [peers.Shuttle, peers.Wattle, peers.WireguardGo, peers.Tinc, peers.Nebula]
    relayed = [peers.Wattle, peers.WireguardGo, peers.Tinc, peers.Nebula]
    for number in range(options.rounds):
        for kind, contestants in (("direct", direct), ("relay", relayed)):
            nodes = ["a", "b"] if kind == "direct" else ["a", "b", "c"]
            for contestant in contestants:
                say(f"round {number + 1}/{options.rounds}: {contestant.name}, {kind}")
                try:
                    with Bed(nodes, mtu=1360).chain() as bed:
                        bed.start(contestant())
                        measure_dataplane(bed, kind, contestant.name, results, options)
                except (LabError, OSError, ValueError) as error:
                    say(f"  {contestant.name}, {kind}: {error}")
    figures = []
    for kind in ("direct", "relay"):
        figures += [results.figure(f"tcp1_{kind}_gbps", "Gbit/s"), results.figure(f"tcp4_{kind}_gbps", "Gbit/s"),
                    results.figure(f"cpu_{kind}_s_per_gb", "s/GB", more_is_better=False),
                    results.figure(f"ping_{kind}_p50_us", "us", more_is_better=False),
                    results.figure(f"ping_{kind}_p99_us", "us", more_is_better=False)]
    return figures


def measure_dataplane(bed, kind, name, results, options):
    time.sleep(1)
    median, tail = pings(bed)
    results.put(f"ping_{kind}_p50_us", name, median)
    results.put(f"ping_{kind}_p99_us", name, tail)
    gbps, cpu = tcp(bed, 1, options.seconds)
    results.put(f"tcp1_{kind}_gbps", name, gbps)
    results.put(f"cpu_{kind}_s_per_gb", name, cpu)
    say(f"  {gbps:.2f} Gbit/s, {cpu:.1f} s/GB, ping {median:.0f}/{tail:.0f} us")
    gbps, _ = tcp(bed, 4, options.seconds)
    results.put(f"tcp4_{kind}_gbps", name, gbps)


def idle(options):
    results = Results()
    for size in options.sizes:
        for contestant in (peers.Wattle, peers.WireguardGo, peers.Nebula, peers.Frr):
            say(f"{size} nodes: {contestant.name}")
            try:
                with Bed([f"n{number}" for number in range(1, size + 1)], mtu=1360, keepalive=True).on_lan() as bed:
                    bed.start(contestant())
                    bed.all_reach()
                    time.sleep(options.settle)
                    measure_idle(bed, f"idle{size}", contestant.name, results, options.seconds_idle)
            except (LabError, OSError, ValueError) as error:
                say(f"  {contestant.name}: {error}")
    units = {"bytes_per_s": "B/s", "cpu_percent": "%", "rss_mib": "MiB"}
    return [results.figure(f"idle{size}_{what}", unit, more_is_better=False) for size in options.sizes for what, unit in units.items()]


def measure_idle(bed, figure, name, results, seconds):
    sent, used, begun = underlay_bytes(bed), bed.cpu_seconds(), time.monotonic()
    time.sleep(seconds)
    elapsed, nodes = time.monotonic() - begun, len(bed.nodes)
    traffic = (underlay_bytes(bed) - sent) / elapsed / nodes
    cpu = (bed.cpu_seconds() - used) / elapsed / nodes * 100
    memory = bed.resident_mib() / nodes
    for what, value in (("bytes_per_s", traffic), ("cpu_percent", cpu), ("rss_mib", memory)):
        results.put(f"{figure}_{what}", name, value)
    say(f"  per node: {traffic:.0f} B/s, {cpu:.2f} % CPU, {memory:.1f} MiB")


def underlay_bytes(bed):
    return sum(host.bytes_sent()["lan"] for host in bed.hosts.values())


RING = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r5"), ("r5", "r1"), ("r2", "r5")]


def routing(options):
    """Probes from r1 to r3 each 10 ms; the adjacent or the far link of the used way goes silent at both ends."""
    results = Results()
    with Lab() as lab:
        plan, dial = {}, {}
        hosts = {f"r{number}": lab.host(f"r{number}") for number in range(1, 6)}
        for number, (a, b) in enumerate(RING, 1):
            lab.link(hosts[a], hosts[b], f"10.1.{number}")
            dial[a, b], dial[b, a] = f"10.1.{number}.1", f"10.1.{number}.2"
        for number, name in enumerate(hosts, 1):
            near = [b for a, b in dial if a == name]
            plan[name] = {"addresses": [f"10.255.0.{number}"], "neighbours": near,
                          "endpoints": [f"{dial[name, other]}:51820" for other in near]}
        mesh = wattle_mesh.offline(lab, plan)
        for agent in mesh.agents.values():
            agent.start()
        say(f"whole after {mesh.wait_until_whole(60):.1f} s")
        stream = Stream(hosts["r1"], "10.255.0.1", hosts["r3"], "10.255.0.3")
        for number in range(options.cuts):
            for kind, link in (("cut_adjacent", ("r1", "r2")), ("cut_far", ("r2", "r3"))):
                result = one_cut(lab, mesh, stream, link)
                results.put(f"{kind}_outage_ms", "wattle", result["outage_ms"])
                say(f"{number + 1}/{options.cuts} {kind}: {result}")
        stream.stop()
    return [results.figure(f"{kind}_outage_ms", "ms", more_is_better=False) for kind in ("cut_adjacent", "cut_far")]


def one_cut(lab, mesh, stream, link):
    source = mesh.agents["r1"]
    wait_until(lambda: stream.flowing() and source.path_of_flow("r3") == ["r1", "r2", "r3"], 400, "the way r1-r2-r3 is not used", step=0.5)
    time.sleep(0.3 + random.random())
    cut_at = time.monotonic_ns()
    lab.between(*link).cut()
    time.sleep(1)
    wait_until(lambda: stream.flowing(60), 60, "no recovery after the cut", step=0.2)
    ended = time.monotonic_ns() - 300_000_000
    result = stream.outage(cut_at, ended)
    lab.between(*link).restore()
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["dataplane", "idle", "routing"])
    parser.add_argument("--json", action="store_true", help="print one document wattle.bench/v1 on stdout")
    parser.add_argument("--rounds", type=int, default=3, help="dataplane: how often each contestant is measured")
    parser.add_argument("--seconds", type=int, default=5, help="dataplane: length of each iperf3 run")
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[6, 30], help="idle: nodes")
    parser.add_argument("--settle", type=float, default=10, help="idle: seconds before the measurement")
    parser.add_argument("--seconds-idle", type=float, default=30, help="idle: seconds of the measurement")
    parser.add_argument("--cuts", type=int, default=5, help="routing: cuts of each kind")
    options = parser.parse_args()
    begun = time.time()
    figures = {"dataplane": dataplane, "idle": idle, "routing": routing}[options.name](options)
    for figure in figures:
        say(f"{figure['id']:28} {figure['ours']} {figure['unit']}  peers {figure['peers']}  limit {figure['limit']}  ratio {figure['ratio']}")
    if options.json:
        document = {"schema": "wattle.bench/v1", "bench": options.name, "seconds": round(time.time() - begun),
                    "cores": os.cpu_count(), "kernel": os.uname().release, "figures": figures}
        print(json.dumps(document))
    if any(figure["ours"] is None for figure in figures):
        sys.exit("some figures of ours could not be measured, see above")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"bench: {error}")
