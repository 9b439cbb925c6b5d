"""Shortest paths and backups, computed by `wattle-spf`: no network, no root, one core.

The peers are petgraph's Dijkstra and the textbook's over a binary heap, run in turn with ours on the same network from the same root.
"""

import os

import program
from results import OURS, Figure, Results, Target, say

GRAPHS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "sim", "graphs")
NODES = 10_000
DEGREE = 8
CHANGES = ("link_fails", "link_returns", "link_dearer", "link_cheaper")

FULL = Figure("full_10k_ms", "ms", "Shortest paths from one node to 10,000", more_is_better=False, targets=(Target(1.5),))
CHANGED = Figure("incremental_10k_us", "us", "The same after one link changed", more_is_better=False, targets=(Target(5),))
FOREST = Figure("forest_10k_ms", "ms", "Shortest paths from one node and its neighbours to 10,000", more_is_better=False)
FOREST_CHANGED = Figure("forest_incremental_10k_us", "us", "The same after one link changed", more_is_better=False)
COVERED = Figure("backup_coverage_percent", "%", "Packets that cross what fails, have a way left, and arrive before anybody is told",
                 targets=(Target(100),))
CIRCLING = Figure("backup_loops", "", "Pairs of nodes of whose packets some go in circles then", more_is_better=False, targets=(Target(0),))


def run(options):
    results = Results(limits=())
    nodes = options.nodes or NODES
    paths(results, program.answer("wattle-spf", "paths", nodes, DEGREE, options.seed, options.runs))
    covered(results, program.answer("wattle-spf", "backups", options.graphs))
    figures = (FULL, CHANGED, FOREST, FOREST_CHANGED, COVERED, CIRCLING)
    if nodes != NODES:
        for figure in figures[:4]:
            results.note(figure.id, OURS, f"{nodes} nodes, not {NODES}: the target does not apply")
    documents = [results.document(figure) for figure in figures]
    return documents, all(document["ours"] is not None for document in documents)


def paths(results, answer):
    micros = answer["micros"]
    for who, name in ((OURS, "full"), ("petgraph", "petgraph"), ("binary heap", "binary_heap")):
        for value in micros[name]:
            results.put(FULL.id, who, value / 1000)
    for value in micros["forest_full"]:
        results.put(FOREST.id, OURS, value / 1000)
    for kind in CHANGES:
        for value in micros[kind]:
            results.put(CHANGED.id, OURS, value)
    for value in micros["forest_update"]:
        results.put(FOREST_CHANGED.id, OURS, value)
    results.note(CHANGED.id, OURS, "; ".join(f"{kind} {spread(micros[kind])}" for kind in CHANGES))
    say(f"  {answer['nodes']} nodes, {answer['links']} links")


def spread(values):
    ordered = sorted(values)
    return f"median {ordered[len(ordered) // 2]:.2f}, 99 % {ordered[len(ordered) * 99 // 100]:.1f}, most {ordered[-1]:.1f} us"


def covered(results, answer):
    results.put(COVERED.id, OURS, 100.0 * answer["arrive"] / answer["affected"])
    results.put(CIRCLING.id, OURS, answer["loops"])
    below = ", ".join(f"{name} {percent:.2f} %" for name, percent in answer["below"].items())
    results.note(COVERED.id, OURS, f"{answer['maps']} networks, {answer['affected']} pairs; below 100 %: {below or 'none'}; "
                 f"{answer['far']} of those that arrive cross more than 16 relays, which a frame may not")
