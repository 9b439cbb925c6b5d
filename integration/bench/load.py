"""The instruments: TCP streams, pings, numbered datagrams, from the first node of a bed to its last."""

import json
import os
import subprocess
import time
from contextlib import contextmanager

import lossfree
from lab import mesh as wattle_mesh
from lab.net import LabError

PORT = 5201
BESIDE_PORT = 5202
UDP_PORT = 6000
# The stream beside pings is ended by the bench; the pings of a very slow way must not outlast it.
LONGER_THAN_ANY_BLOCK = 300
LEAST_BYTES = 1_000_000
# A step in the search for the loss-free rate of datagrams lasts this long.
TRIAL_SECONDS = 0.5
# Nothing may arrive for this long before what is missing counts as lost: longer than any queue here holds a packet.
QUIET_SECONDS = 0.2


def tcp(bed, streams, seconds):
    """One iperf3 run: Gbit/s received, bytes, CPU seconds by node while it ran."""
    server = bed.last.spawn(["iperf3", "-s", "-1", "-p", str(PORT)])
    try:
        time.sleep(0.3)
        before = {node: bed.cpu_seconds(node) for node in bed.nodes}
        text = bed.first.run(["iperf3", "-c", bed.target, "-p", str(PORT), "-t", str(seconds), "-P", str(streams), "-J"],
                             check=False, timeout=seconds + 40).stdout
        used = {node: bed.cpu_seconds(node) - before[node] for node in bed.nodes}
    finally:
        end(server)
    return received(text) + (used,)


def received(text):
    """Gbit/s and bytes that arrived, from iperf3's report."""
    try:
        answer = json.loads(text)
        if "error" in answer:
            raise LabError(f"iperf3: {answer['error']}")
        total = answer["end"]["sum_received"]
        if not total["bytes"]:
            raise LabError("iperf3: no byte arrived")
        return total["bits_per_second"] / 1e9, total["bytes"]
    except (ValueError, KeyError) as error:
        raise LabError(f"iperf3 wrote no report that can be read ({error!r}): {text[-200:]!r}") from None


def pings(bed, count):
    """Median and 99th percentile of round trips in microseconds, a probe each 5 ms."""
    answer = bed.first.run(["fping", "-C", str(count), "-p", "5", "-t", "1000", "-q", bed.target], check=False,
                           timeout=count * 0.005 + 30)
    return percentiles(answer.stderr)


def percentiles(text):
    words = text.rsplit(" : ", 1)[-1].split()
    trips = sorted(float(word) * 1000 for word in words if word.replace(".", "", 1).isdigit())
    if not trips:
        raise LabError("no ping came back")
    return trips[len(trips) // 2], trips[min(len(trips) - 1, int(len(trips) * 0.99))]


def pings_under_load(bed, count):
    """The same beside one TCP stream that takes all it can get."""
    with saturating_stream(bed):
        time.sleep(1.2)
        return pings(bed, count)


@contextmanager
def saturating_stream(bed):
    """One TCP stream for as long as the block runs."""
    server = bed.last.spawn(["iperf3", "-s", "-1", "-p", str(BESIDE_PORT)])
    time.sleep(0.3)
    before = sum(bed.first.bytes_sent().values())
    client = bed.first.spawn(["iperf3", "-c", bed.target, "-p", str(BESIDE_PORT), "-t", str(LONGER_THAN_ANY_BLOCK)],
                             stdout=subprocess.PIPE, text=True)
    try:
        yield
        if client.poll() is not None:
            raise LabError(f"the stream beside the pings ended early: {client.stdout.read()[-300:]}")
        if sum(bed.first.bytes_sent().values()) - before < LEAST_BYTES:
            raise LabError("the stream beside the pings stood still")
    finally:
        end(client)
        end(server)


class Datagrams:
    """Numbered UDP datagrams; `with` starts the sink."""

    def __init__(self, bed):
        self.bed, self.runs = bed, 0
        self.program = os.path.join(wattle_mesh.binaries(), "wattle-load")
        self.place = f"{bed.target}:{UDP_PORT}"

    def __enter__(self):
        # `spawn` closes stdin, and the sink is asked over it: so it is started by hand in the same namespace.
        self.sink = subprocess.Popen(["ip", "netns", "exec", self.bed.last.namespace, self.program, "sink", self.place],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.bed.lab.processes.append(self.sink)
        self.ask("begin 0")
        return self

    def __exit__(self, *_):
        end(self.sink)

    def ask(self, words):
        try:
            self.sink.stdin.write(words + "\n")
            self.sink.stdin.flush()
            return json.loads(self.sink.stdout.readline())
        except (OSError, ValueError):
            self.sink.kill()
            raise LabError(f"the sink of datagrams ended: {self.sink.stderr.read()[-300:]}") from None

    def send(self, packet, rate, count, flows=1):
        """Sends `count` packets of `packet` bytes, IP header included; returns what was sent and what arrived, by flow."""
        self.runs += 1
        self.ask(f"begin {self.runs}")
        overrun = self.ask("report")["overrun"]
        command = [self.program, "send", self.place, str(self.runs), str(packet), f"{rate:.1f}", str(int(count)), str(flows)]
        sent = json.loads(self.bed.first.run(command, timeout=3 * count / rate + 30).stdout)
        arrived = self.wait_for_quiet(sent["sent"])
        arrived["overrun"] -= overrun
        return sent, arrived

    def wait_for_quiet(self, expected):
        last, since = -1, time.monotonic()
        while True:
            answer = self.ask("report")
            if answer["arrived"] >= expected:
                return answer
            if answer["arrived"] != last:
                last, since = answer["arrived"], time.monotonic()
            elif time.monotonic() - since > QUIET_SECONDS:
                return answer
            time.sleep(0.02)

    def trial(self, packet, rate, seconds=TRIAL_SECONDS):
        sent, arrived = self.send(packet, rate, max(1, rate * seconds))
        return lossfree.Trial(rate, sent["sent"] / sent["seconds"], sent["sent"], arrived["arrived"])

    def largest_lossfree(self, packet, start=None, seconds=TRIAL_SECONDS):
        """The largest loss-free rate; `start` is where an earlier search ended."""
        search = lossfree.Search(lambda rate: self.trial(packet, rate, seconds))
        return search.run(start * 0.9, step=1.25) if start else search.run(20_000)


def end(process):
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()
