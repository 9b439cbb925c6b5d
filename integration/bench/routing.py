"""Outage after silent cuts in a ring of five with a chord: probes from r1 to r3, the adjacent or the far link of the way goes silent."""

import random
import time

from lab import mesh as wattle_mesh
from lab.net import Lab, wait_until
from lab.probe import Stream
from progress import Progress
from results import OURS, Figure, Results, say

RING = [("r1", "r2"), ("r2", "r3"), ("r3", "r4"), ("r4", "r5"), ("r5", "r1"), ("r2", "r5")]
CUTS = {"cut_adjacent": ("r1", "r2"), "cut_far": ("r2", "r3")}


def run(options):
    results = Results()
    progress = Progress([8.0] * (options.cuts * len(CUTS)))
    with Lab() as lab:
        mesh = ring(lab)
        say(f"whole after {mesh.wait_until_whole(60):.1f} s")
        stream = Stream(lab.hosts["r1"], "10.255.0.1", lab.hosts["r3"], "10.255.0.3")
        for number in range(options.cuts):
            for kind, link in CUTS.items():
                progress.step(f"{kind} {number + 1}/{options.cuts}")
                result = one_cut(lab, mesh, stream, link)
                results.put(f"{kind}_outage_ms", OURS, result["outage_ms"])
                say(f"  {result}")
        stream.stop()
    progress.finish()
    documents = [results.document(Figure(f"{kind}_outage_ms", "ms", f"Outage, {kind.replace('_', ' ')}", more_is_better=False)) for kind in CUTS]
    return documents, all(document["ours"] is not None for document in documents)


def ring(lab):
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
    return mesh


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
