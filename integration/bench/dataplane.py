"""TCP, CPU, datagrams, round trips and memory, direct and relayed, beside the limits and the peers.

A round goes over all beds and contestants in turn, so that what else happens on the machine meets all alike. Which bed and
which measurement a figure needs is in the table below; --only picks figures, and only what those need is measured.
"""

import subprocess
import time
from dataclasses import dataclass

import crates
import limits
import load
import ours
import peers
from bed import Bed
from lab.net import LabError
from progress import Progress
from results import LIMIT, OURS, Figure, Results, Target, say

# Inner MTU. Direct: what WireGuard leaves of 1500 over IPv6. Relayed: what every contestant's relay frame leaves over IPv4.
MTU = {"direct": 1420, "relay": 1380}
# Whole inner IP packets; the UDP payload is 28 bytes less.
LARGE, SMALL = 1372, 200
SHUTTLES = ("shuttle", "shuttle-chacha", "shuttle-aes")
FAILURES_IN_A_ROW = 2


@dataclass(frozen=True)
class Row(Figure):
    """A figure with the kind of bed and the measurement that it comes from."""

    kind: str = ""
    measurement: str = ""

    @property
    def groups(self):
        """Words that select it with --only, besides its id."""
        return {self.kind, self.measurement, self.measurement.rstrip("0123456789"), self.id.split("_")[0]}


def row(name, unit, title, kind, measurement, **more):
    return Row(name, unit, title, kind=kind, measurement=measurement, **more)


FIGURES = (
    row("tcp1_direct_gbps", "Gbit/s", "TCP, one stream, direct", "direct", "tcp1", targets=(Target(0.80, LIMIT),)),
    row("tcp4_direct_gbps", "Gbit/s", "TCP, four streams, direct", "direct", "tcp4", targets=(Target(0.85, LIMIT),)),
    row("tcp1_relay_gbps", "Gbit/s", "TCP, one stream, over a relay", "relay", "tcp1", targets=(Target(0.50, LIMIT),)),
    row("tcp4_relay_gbps", "Gbit/s", "TCP, four streams, over a relay", "relay", "tcp4"),
    row("udp1372_lossfree_kpps", "1000 packets/s", "Packets of 1372 bytes without loss, direct", "direct", "udp1372", targets=(Target(200),)),
    row("udp200_lossfree_kpps", "1000 packets/s", "Packets of 200 bytes without loss, direct", "direct", "udp200", targets=(Target(250),)),
    row("udp1372_relay_lossfree_kpps", "1000 packets/s", "Packets of 1372 bytes without loss, over a relay", "relay", "udp1372",
        targets=(Target(120),)),
    row("rtt_idle_p50_us", "us", "Round trip when idle, median", "direct", "rtt", more_is_better=False, targets=(Target(130),)),
    row("rtt_idle_p99_us", "us", "Round trip when idle, 99th percentile", "direct", "rtt", more_is_better=False, targets=(Target(250),)),
    row("rtt_relay_p50_us", "us", "Round trip over a relay when idle, median", "relay", "rtt", more_is_better=False),
    row("rtt_relay_p99_us", "us", "Round trip over a relay when idle, 99th percentile", "relay", "rtt", more_is_better=False),
    row("rtt_loaded_p50_ms", "ms", "Round trip beside a TCP stream, median", "direct", "loaded", more_is_better=False),
    row("rtt_loaded_p99_ms", "ms", "Round trip beside a TCP stream, 99th percentile", "direct", "loaded", more_is_better=False,
        targets=(Target(2),)),
    row("cpu_s_per_gb_direct", "s/GB", "CPU of all tunnel processes, one TCP stream, direct", "direct", "tcp1", more_is_better=False,
        targets=(Target(2.0),)),
    row("cpu_s_per_gb_relay", "s/GB", "CPU of all tunnel processes, one TCP stream, over a relay", "relay", "tcp1", more_is_better=False),
    row("relay_cpu_share", "", "Share of that CPU which the relay takes", "relay", "tcp1", more_is_better=False, targets=(Target(0.25),)),
    row("rss_mib", "MiB", "Memory of one node after the load", "direct", "rss", more_is_better=False, targets=(Target(12),)),
    row("tcp1_wireguard_gbps", "Gbit/s", "TCP, one stream, direct, plain WireGuard data", "wireguard", "tcp1", beside="tcp1_direct_gbps",
        targets=(Target(0.95, "shuttle-chacha"), Target(2, "wireguard-go"))),
    row("tcp1_quic_gbps", "Gbit/s", "TCP, one stream, direct, over the QUIC carrier", "quic", "tcp1", beside="tcp1_direct_gbps",
        targets=(Target(0.35, LIMIT),)),
)
# A relayed way is held against the direct shuttle: what a relay costs is part of the figure. The chain of shuttles stands in `limits`.
CHAIN = "shuttle-chain"
RELAY_BESIDE = {"tcp1_relay_gbps": "tcp1_direct_gbps", "tcp4_relay_gbps": "tcp4_direct_gbps", "cpu_s_per_gb_relay": "cpu_s_per_gb_direct",
                "udp1372_relay_lossfree_kpps": "udp1372_lossfree_kpps", "rtt_relay_p50_us": "rtt_idle_p50_us",
                "rtt_relay_p99_us": "rtt_idle_p99_us"}
# Measurements in the order in which a bed goes through them, and what each takes besides `seconds` of load.
MEASUREMENTS = {"rtt": 3, "tcp1": 0.7, "loaded": 5, "tcp4": 0.7, "udp1372": 8, "udp200": 8, "rss": 0}
# Figures of things that an agent may lack; without them the bench is whole.
OPTIONAL = {"wireguard": ours.WattleOverWireguard, "quic": ours.WattleOverQuic}


@dataclass(frozen=True)
class Step:
    """One contestant on one bed of one round."""

    kind: str
    contestant: object
    measurements: tuple

    def expected(self, options):
        return 4 + sum(MEASUREMENTS[name] + (options.seconds if name in ("tcp1", "tcp4") else 0) for name in self.measurements)


def run(options):
    """Measures and returns figures, and whether all of ours that should be there are there."""
    figures = chosen(options.only)
    results = Results(limits=("raw-veth", *SHUTTLES, CHAIN))
    steps = plan(figures, contestants(options), results)
    progress = Progress([step.expected(options) for _ in range(options.rounds) for step in steps])
    failures = {}
    for number in range(options.rounds):
        for step in steps:
            name = recorded_name(step)
            progress.step(f"round {number + 1}/{options.rounds}: {name}, {step.kind}")
            if failures.get((step.kind, name), 0) >= FAILURES_IN_A_ROW:
                say(f"  left out: it failed {FAILURES_IN_A_ROW} times")
            elif turn(step, name, results, options):
                failures[step.kind, name] = 0
            else:
                failures[step.kind, name] = failures.get((step.kind, name), 0) + 1
    progress.finish()
    documents = [finished(figure, results) for figure in figures]
    whole = all(document["ours"] is not None for figure, document in zip(figures, documents) if figure.id not in results.lacking)
    return documents, whole


def chosen(words):
    """The figures that any of the words selects by id or group; all without words."""
    if not words:
        return list(FIGURES)
    known = {figure.id for figure in FIGURES} | {group for figure in FIGURES for group in figure.groups}
    unknown = [word for word in words if word not in known]
    if unknown:
        raise LabError(f"--only does not know {', '.join(unknown)}; it knows {', '.join(sorted(known))}")
    return [figure for figure in FIGURES if any(word == figure.id or word in figure.groups for word in words)]


def contestants(options):
    """All that take part: limits, ours, and the peers asked for."""
    known = {peer.name: peer for peer in (*peers.DEBIAN, *peers.FROM_CRATES)}
    asked = known.values() if options.peers is None else [named(name, known) for name in options.peers]
    build = options.all_peers or options.peers is not None
    return [*limits.ALL, ours.Wattle, *able(asked, build)]


def named(name, known):
    if name not in known:
        raise LabError(f"--peers does not know {name}; it knows {', '.join(known)}")
    return known[name]


def able(asked, build):
    """Those that can run here, built where that is allowed. Says who cannot, and why."""
    taking_part = []
    for contestant in asked:
        crate = getattr(contestant, "crate", None)
        reason = (crates.install(crate) if crate and build else None) or contestant().missing()
        if reason:
            say(f"{contestant.name} does not take part: {reason}")
        else:
            taking_part.append(contestant)
    return taking_part


def plan(figures, taking_part, results):
    """Steps of one round: for each kind of bed its contestants, with what the figures need of them."""
    figures = [figure for figure in figures if can_be_measured(figure, results)]
    needed = {}
    for figure in figures:
        needed.setdefault(figure.kind, set()).add(figure.measurement)
    # What a relayed figure, plain WireGuard and QUIC are held against is measured in the direct bed.
    compared = {by_id(beside).measurement for figure in figures for beside in [figure.beside or RELAY_BESIDE.get(figure.id)] if beside}
    steps = []
    for contestant in taking_part:
        wanted = set(needed.get("direct", ()))
        if contestant is limits.Shuttle or (contestant is not ours.Wattle and set(OPTIONAL) & set(needed)):
            wanted |= compared
        add(steps, "direct", contestant, wanted)
    for contestant in taking_part:
        # Sealing at the ends of a chain is in the direct bed already.
        if "relay" in contestant.kinds and contestant not in (limits.ShuttleChaCha, limits.ShuttleAes):
            add(steps, "relay", contestant, needed.get("relay", ()))
    for kind, contestant in OPTIONAL.items():
        add(steps, kind, contestant, needed.get(kind, ()))
    return steps


def can_be_measured(figure, results):
    """False, and told, when the agent has no such thing."""
    reason = OPTIONAL[figure.kind]().missing() if figure.kind in OPTIONAL else None
    if reason:
        results.explain(figure.id, reason)
        results.lacking.add(figure.id)
        say(f"{figure.id} cannot be measured: {reason}")
    return not reason


def add(steps, kind, contestant, wanted):
    ordered = tuple(name for name in MEASUREMENTS if name in wanted)
    # Nothing to weigh where no process carries packets; the memory of one that carried nothing says nothing.
    if contestant is limits.RawVeth:
        ordered = tuple(name for name in ordered if name != "rss")
    if ordered == ("rss",):
        ordered = ("tcp1", "rss")
    if ordered:
        steps.append(Step(kind, contestant(), ordered))


def by_id(name):
    return next(figure for figure in FIGURES if figure.id == name)


def recorded_name(step):
    chain = step.kind == "relay" and isinstance(step.contestant, limits.Shuttle)
    return CHAIN if chain else step.contestant.name


def turn(step, name, results, options):
    try:
        return one(step, name, results, options)
    except (LabError, OSError, subprocess.SubprocessError) as error:
        say(f"  {name}, {step.kind}: no bed: {error}")
        return False


def one(step, name, results, options):
    """One contestant on a fresh bed; False when it did not come up, or nothing could be measured."""
    nodes = ["a", "b", "c"] if step.kind == "relay" else ["a", "b"]
    with Bed(nodes, mtu=MTU["relay" if step.kind == "relay" else "direct"]) as bed:
        try:
            bed.chain().start(step.contestant)
        except (LabError, OSError, subprocess.SubprocessError) as error:
            return failed(bed, step, name, "it does not come up", error, results)
        time.sleep(1)
        good = 0
        for measurement in step.measurements:
            try:
                say(f"  {measurement:8} {measure(measurement, bed, step, name, results, options)}")
                good += 1
            except (LabError, OSError, subprocess.SubprocessError) as error:
                failed(bed, step, name, measurement, error, results)
        return good > 0


def failed(bed, step, name, what, error, results):
    say(f"  {name}, {step.kind}, {what}: {error}")
    gone = bed.ended()
    if gone:
        say(f"  ended by itself on: {', '.join(gone)}")
    tail = bed.tail_of_logs()
    if tail:
        say(tail)
    if name == OURS:
        for figure in FIGURES:
            if figure.kind == step.kind and what in ("it does not come up", figure.measurement):
                results.explain(figure.id, f"{what}: {error}")
    return False


def measure(measurement, bed, step, name, results, options):
    """Takes one measurement, records it under the figures of this bed, and returns it as words."""
    def put(figure, value):
        results.put(figure, name, value)

    kind = step.kind
    pings = 200 if options.quick else 600
    if measurement == "rtt":
        median, tail = load.pings(bed, pings)
        stem = "rtt_idle" if kind == "direct" else "rtt_relay"
        put(f"{stem}_p50_us", median)
        put(f"{stem}_p99_us", tail)
        return f"{median:.0f} / {tail:.0f} us"
    if measurement == "loaded":
        median, tail = (value / 1000 for value in load.pings_under_load(bed, pings))
        put("rtt_loaded_p50_ms", median)
        put("rtt_loaded_p99_ms", tail)
        return f"{median:.2f} / {tail:.2f} ms"
    if measurement == "tcp1":
        return one_stream(bed, kind, put, options)
    if measurement == "tcp4":
        gbps, _, _ = load.tcp(bed, 4, options.seconds)
        put(f"tcp4_{kind}_gbps", gbps)
        return f"{gbps:.2f} Gbit/s"
    if measurement == "rss":
        mib = bed.largest_resident_mib()
        put("rss_mib", mib)
        return f"{mib:.1f} MiB"
    return datagrams(measurement, bed, kind, name, results, options)


def one_stream(bed, kind, put, options):
    gbps, size, used = load.tcp(bed, 1, options.seconds)
    put(f"tcp1_{kind}_gbps", gbps)
    cpu = sum(used.values())
    words = f"{gbps:.2f} Gbit/s"
    if cpu and kind in ("direct", "relay"):
        put(f"cpu_s_per_gb_{kind}", cpu / (size / 1e9))
        words += f", {cpu / (size / 1e9):.2f} s/GB"
    # Where the middle's kernel forwards, a share of its processes would be a figure about nothing.
    if kind == "relay" and used["b"] > 0.01 * cpu > 0:
        put("relay_cpu_share", used["b"] / cpu)
        words += f", the relay {100 * used['b'] / cpu:.0f} %"
    return words


def datagrams(measurement, bed, kind, name, results, options):
    size = LARGE if measurement == "udp1372" else SMALL
    figure = f"{measurement}_lossfree_kpps" if kind == "direct" else f"{measurement}_{kind}_lossfree_kpps"
    before = results.median(figure, name)
    with load.Datagrams(bed) as instrument:
        rate = instrument.largest_lossfree(size, before and before * 1000, 0.25 if options.quick else load.TRIAL_SECONDS)
    results.put(figure, name, rate.packets_per_second / 1000)
    words = f"{rate.packets_per_second / 1000:.1f} kpps, {rate.trials} trials"
    if rate.sender_is_limit:
        results.note(figure, name, "the sender was the limit at least once")
        words += ", the sender is the limit"
    return words


def finished(figure, results):
    """The figure's document; a relayed one is held against the direct shuttle."""
    beside = RELAY_BESIDE.get(figure.id)
    if beside:
        direct = results.samples.get(beside, {}).get(LIMIT)
        if direct:
            results.samples.setdefault(figure.id, {})[LIMIT] = direct
    return results.document(figure)
