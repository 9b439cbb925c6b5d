"""Bytes, CPU and memory per node of a mesh on one LAN that does nothing."""

import subprocess
import time

import ours
import peers
from bed import Bed
from lab.net import LabError
from progress import Progress
from results import Figure, Results, say

UNITS = {"bytes_per_s": "B/s", "cpu_percent": "%", "rss_mib": "MiB"}


def run(options):
    results = Results()
    contestants = (ours.Wattle, peers.WireguardGo, peers.Nebula, peers.Frr)
    progress = Progress([options.settle + options.seconds_idle + size for size in options.sizes for _ in contestants])
    for size in options.sizes:
        for contestant in contestants:
            progress.step(f"{size} nodes: {contestant.name}")
            one(size, contestant(), results, options)
    progress.finish()
    documents = [results.document(Figure(f"idle{size}_{what}", unit, f"{size} idle nodes, per node", more_is_better=False))
                 for size in options.sizes for what, unit in UNITS.items()]
    return documents, all(document["ours"] is not None for document in documents)


def one(size, contestant, results, options):
    reason = contestant.missing()
    if reason:
        say(f"  does not take part: {reason}")
        return
    with Bed([f"n{number}" for number in range(1, size + 1)], mtu=1360, keepalive=True) as bed:
        try:
            bed.on_lan().start(contestant, seconds=60)
            bed.all_reach()
            time.sleep(options.settle)
            measure(bed, f"idle{size}", contestant.name, results, options.seconds_idle)
        except (LabError, OSError, subprocess.SubprocessError) as error:
            say(f"  {contestant.name}: {error}\n{bed.tail_of_logs(2)}")


def measure(bed, figure, name, results, seconds):
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
