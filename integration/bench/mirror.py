"""The topology stream against a real Apache Kafka: latency, throughput, faults, take-over, outage, cold readers.

Everything is written through the coordinator's own database and mirror (`wattle-stream write`) and read by an
independent consumer, committed records only. A change's latency begins where it is handed to the database, as the
coordinator's engine does with what an agent reports, and ends where the consumer has the record.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

import api
from lab import kafka
from lab.net import LabError
from results import OURS, Figure, Results, Target, say

HERE = os.path.dirname(os.path.abspath(__file__))
JUDGE = os.path.join(os.path.dirname(HERE), "kafka", "judge.py")
RATE = 10_000
# Seconds at that rate after which fresh brokers have compiled what they run, by their number: a broker's first minute is
# no steady state. Then seconds after which a mirror has caught up with its own start.
WARM_BROKERS = {1: 60, 3: 120}
WARM = 10
# A mesh of this size has its changes spread over many keys and all partitions.
MESH = ["--nodes", "1000", "--sites", "12", "--degree", "4"]

FIGURES = [
    Figure("latency_p50_ms_10k", "ms", "change to committed read at 10,000 events/s, one broker, median", False, targets=(Target(15),)),
    Figure("latency_p99_ms_10k", "ms", "the same, 99th of 100", False, targets=(Target(50),)),
    Figure("latency_p99_ms_10k_3brokers", "ms", "the same with three brokers and three copies", False, targets=(Target(100),)),
    Figure("exactly_once_events_per_s", "/s", "events that wait in the outbox, written exactly once", targets=(Target(50_000), Target(134_000))),
    Figure("chaos_lost", "events", "events lost in the chaos run", False, targets=(Target(0),)),
    Figure("chaos_duplicated", "events", "events doubled in the chaos run", False, targets=(Target(0),)),
    Figure("chaos_reordered", "events", "events behind a newer one of their key in the chaos run", False, targets=(Target(0),)),
    Figure("takeover_s", "s", "kill -9 of the leader to its successor's first commit", False, targets=(Target(3),)),
    Figure("outage_rss_mib", "MiB", "memory that a coordinator gains while no broker answers", False, targets=(Target(64),)),
    Figure("api_up_p50_ms", "ms", "the coordinator's API answers, Kafka there, median", False),
    Figure("api_outage_p50_ms", "ms", "the same while no broker answers and events wait", False),
    Figure("api_outage_p50_ratio", "", "the latter over the former", False, targets=(Target(1.1),)),
    Figure("api_up_p99_ms", "ms", "the coordinator's API answers, Kafka there, 99th of 100", False),
    Figure("api_outage_p99_ms", "ms", "the same while no broker answers and events wait", False),
    Figure("api_outage_p99_ratio", "", "the latter over the former", False, targets=(Target(1.1),)),
    Figure("cold_read_s", "s", "a fresh consumer reads the state of 10,000 nodes and 50,000 links", False, targets=(Target(5),)),
    Figure("at_s", "s", "wattle topology at, in that network's history", False, targets=(Target(3),)),
]


class Size:
    """How much is measured."""

    def __init__(self, options):
        self.quick = options.quick
        self.rounds = options.rounds if options.quick else 3
        self.seconds = 4 if options.quick else 20
        self.drained = 50_000 if options.quick else 500_000
        self.outage = 40_000_000 if options.full else 50_000 if options.quick else 1_000_000
        self.backlog = 20_000 if options.quick else 500_000
        self.requests = 500 if options.quick else 5_000
        self.takeovers = 1 if options.quick else 5
        self.nodes = 1_000 if options.quick else 10_000
        self.chaos = (1_000_000, 100, 30, 10) if options.full else (5_000, 4, 1, 1) if options.quick else (100_000, 20, 6, 3)


def run(options):
    size, found = Size(options), Results()
    for name, phase in (("latency", latency), ("latency3", latency_of_three), ("throughput", throughput), ("chaos", chaos), ("takeover", takeover),
                        ("outage", outage), ("api", api_outage), ("cold", cold)):
        if options.only and name not in options.only:
            continue
        say(f"mirror: {name}")
        try:
            phase(size, found)
        except (LabError, subprocess.SubprocessError) as error:
            say(f"mirror: {name}: {error}")
            for figure in FIGURES:
                found.explain(figure.id, f"{name}: {error}")
    if "at_s" not in found.samples:
        found.lacking.add("at_s")
    figures = [found.document(figure) for figure in FIGURES]
    wanted = [figure for figure in figures if figure["ours"] is None and figure["id"] not in found.lacking]
    return figures, bool(options.only) or not wanted


def program(name):
    return os.path.join(os.environ.get("WATTLE_BIN_DIR", ""), name)


def stream(verb, *arguments):
    command = ["setpriv", "--pdeathsig", "KILL", program("wattle-stream"), verb, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def lines(process, within):
    """The documents that a process printed until it ended well."""
    try:
        out, _ = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise LabError(f"{process.args[4]} did not end within {within} s") from None
    if process.returncode:
        raise LabError(f"{process.args[4]} ended with {process.returncode}")
    return {line["what"]: line for line in map(json.loads, out.splitlines())}


def until(process, what):
    """The documents that a process prints up to the one that tells this."""
    seen = {}
    for line in process.stdout:
        told = json.loads(line)
        seen[told["what"]] = told
        if told["what"] == what:
            return seen
    raise LabError(f"{process.args[4]} ended before it told {what}")


class State:
    """A directory for a coordinator's database."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="wl-stream-")
        return self.dir

    def __exit__(self, *_):
        shutil.rmtree(self.dir, ignore_errors=True)


def latency(size, found):
    latency_at(size, found, 1, ("latency_p50_ms_10k", "latency_p99_ms_10k"))


def latency_of_three(size, found):
    latency_at(size, found, 3, (None, "latency_p99_ms_10k_3brokers"))


def latency_at(size, found, brokers, names):
    with kafka.Cluster(brokers) as cluster:
        for number in range(size.rounds):
            warm = WARM if number or size.quick else WARM_BROKERS[brokers]
            told = one_latency(size, cluster, f"l{number}", warm, ["--replication", brokers])
            say(f"  {brokers} broker(s): {told}")
            for name, value in zip(names, (told["p50_us"], told["p99_us"])):
                if name:
                    found.put(name, OURS, value / 1_000)
                    found.note(name, OURS, f"{told['n']} events a round, the longest {told['max_us'] / 1_000:.1f} ms")


def one_latency(size, cluster, network, warm_s, more):
    """Topics are made before, and the first seconds do not count: what came while brokers and mirror warmed up has to be caught up with."""
    warm, last = warm_s * RATE, (warm_s + size.seconds) * RATE
    with State() as state:
        common = ["--brokers", cluster.bootstrap]
        lines(stream("write", *common, "--state", state, "--network", network, "--events", 1_000, *MESH, *more), 120)
        writer = stream("write", *common, "--state", state, "--network", network, "--rate", RATE, "--events", last, *MESH, *more)
        watcher = stream("watch", *common, "--prefix", f"wattle.{network}", "--skip", warm, "--until", last)
        try:
            told = lines(watcher, 90 + warm_s + size.seconds)["latency"]
            lines(writer, 60)
        finally:
            watcher.kill()
            writer.kill()
    return told


def throughput(size, found):
    with kafka.Cluster() as cluster, State() as state:
        lines(stream("write", "--state", state, "--events", size.drained, "--mirror", "off", *MESH), 600)
        for number in range(size.rounds):
            with State() as copy:
                shutil.copytree(state, copy, dirs_exist_ok=True)
                told = lines(stream("write", "--brokers", cluster.bootstrap, "--state", copy, "--network", f"t{number}",
                                    "--events", size.drained, "--mirror", "after", *MESH), 600)["mirrored"]
            events, seconds = told["seq"] - told["first_seq"], (told["at_us"] - told["first_commit_us"]) / 1e6
            say(f"  {events} events in {seconds:.2f} s, {told['transactions']} transactions")
            found.put("exactly_once_events_per_s", OURS, events / seconds)
        verdict = judge(cluster, f"t{size.rounds - 1}", size.drained)
        if verdict["lost"] or verdict["duplicated"]:
            raise LabError(f"fast, but not exactly once: {verdict}")


def judge(cluster, network, last):
    command = [sys.executable, JUDGE, "--brokers", cluster.bootstrap, "--topic", f"wattle.{network}.topology.events.v1", "--last", str(last)]
    judged = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=600)
    if not judged.stdout.strip():
        raise LabError(f"the judge ended with {judged.returncode}")
    return json.loads(judged.stdout)


def chaos(size, found):
    events, kills, broker_kills, zombies = size.chaos
    with kafka.Cluster() as cluster, tempfile.TemporaryDirectory(prefix="wl-chaos-") as states:
        done, brokers, woken = 0, 0, 0
        steps, state = kills + zombies, os.path.join(states, "0")
        os.mkdir(state)
        for step in range(1, steps + 1):
            write = lambda where, *how: stream("write", "--brokers", cluster.bootstrap, "--state", where, "--rate", 5000, *how)
            life = 0.4 + step * 7_919 % 23 * 0.06
            broker_too = step * broker_kills // steps > brokers
            brokers += broker_too
            zombie = step * zombies // steps > woken
            writer = write(state, "--events", events * step // (steps + 1)) if not zombie else write(state, "--events", 2**40)
            time.sleep(life)
            if zombie:
                woken += 1
                writer.send_signal(19)
                state, old = os.path.join(states, str(step)), state
                shutil.copytree(old, state)
                successor = write(state, "--more", 500)
            if broker_too:
                cluster.kill(0)
                cluster.spawn(0)
            if zombie:
                lines(successor, 180)
                writer.send_signal(18)
                try:
                    writer.communicate(timeout=60)
                except subprocess.TimeoutExpired:
                    writer.kill()
                    raise LabError("a leader that woke up did not notice that another leads") from None
            else:
                done += 1
                writer.kill()
                writer.communicate()
            if broker_too:
                cluster.wait()
        lines(write(state, "--events", events), 900)
        verdict = judge(cluster, "chaos", events)
        say(f"  {done} kills, {brokers} of the broker, {woken} leaders that woke up: {verdict}")
        for name, field in (("chaos_lost", "lost"), ("chaos_duplicated", "duplicated"), ("chaos_reordered", "reordered_per_key")):
            found.put(name, OURS, verdict[field])
            found.note(name, OURS, f"{events} events, {done} kills, {brokers} of the broker, {woken} paused leaders that woke up")


def takeover(size, found):
    with kafka.Cluster() as cluster, State() as state:
        for number in range(size.takeovers):
            writer = stream("write", "--brokers", cluster.bootstrap, "--state", state, "--rate", 5000, "--events", 2**40)
            # On fresh brokers that takes seconds.
            until(writer, "first_commit")
            time.sleep(1 + 0.137 * number)
            writer.kill()
            killed = time.time()
            writer.communicate()
            told = lines(stream("write", "--brokers", cluster.bootstrap, "--state", state, "--rate", 5000, "--more", 1_000), 120)
            found.put("takeover_s", OURS, told["first_commit"]["at_us"] / 1e6 - killed)


def outage(size, found):
    with State() as state:
        dead = f"127.0.0.1:{kafka.free_ports(1)[0]}"
        writer = stream("write", "--brokers", dead, "--state", state, "--events", size.outage, *MESH)
        seen = until(writer, "written")
        writer.kill()
        writer.communicate()
        found.put("outage_rss_mib", OURS, (seen["written"]["rss_kib"] - seen["begin"]["rss_kib"]) / 1024)
        found.note("outage_rss_mib", OURS, f"{size.outage} events waiting, {seen['written']['rss_kib'] / 1024:.0f} MiB in all")


def api_outage(size, found):
    write = lambda *how: lines(stream("write", *how, "--mirror", "off", *MESH), 600)
    with State() as state:
        api.measure(size, found, program, write, state)


def cold(size, found):
    entities = size.nodes * 6
    with kafka.Cluster() as cluster, State() as state:
        began = time.time()
        lines(stream("write", "--brokers", cluster.bootstrap, "--state", state, "--network", "big", "--nodes", size.nodes,
                     "--degree", 5, "--sites", 12, "--events", entities + size.nodes, "--snapshot-every", 10), 600)
        for _ in range(size.rounds):
            told = lines(stream("table", "--brokers", cluster.bootstrap, "--prefix", "wattle.big"), 120)["table"]
            if told["entities"] != entities:
                raise LabError(f"{told['entities']} entities instead of {entities}")
            found.put("cold_read_s", OURS, told["seconds"])
        at(size, found, cluster, (began + time.time()) / 2)


def at(size, found, cluster, moment):
    """By the command line's own reader, where it has one."""
    wattle = program("wattle")
    if subprocess.run([wattle, "topology", "at", "--help"], capture_output=True).returncode:
        found.explain("at_s", "this wattle has no `topology at`")
        return
    when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
    for _ in range(size.rounds):
        began = time.monotonic()
        done = subprocess.run([wattle, "topology", "at", when, "--kafka", cluster.bootstrap, "--format", "json"], capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise LabError(f"wattle topology at: {done.stderr.strip()}")
        found.put("at_s", OURS, time.monotonic() - began)
