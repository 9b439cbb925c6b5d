"""A large fleet in virtual time, computed by `wattle-sim`: the real cores of all nodes on one core, no network, no root.

Times are virtual: no node waits for its processor. What the judging of signatures takes is measured apart and added.
"""

import program
from results import OURS, Figure, Results, Target

NODES = 1_000
# An ideal tree costs one message a node; the rest is for what gets there twice.
MESSAGES_PER_NODE = 1.3


def run(options):
    answer = program.answer("wattle-sim", *network(options), options.seed)
    nodes = answer["nodes"]
    results = Results(limits=())
    figures = [*steady(results, answer), *record(results, answer, nodes), *restart(results, answer)]
    series = {}
    for outcome in answer["failures"]:
        for figure in failures(results, outcome):
            figures.append(figure)
        series[f"sim_outage_{outcome['cut']}_ms"] = {
            "tick_ms": outcome["tick_ms"], "of": outcome["pairs"], "in a hole": outcome["holes"], "in circles": outcome["circles"]}
    documents = [results.document(figure) for figure in figures]
    for document in documents:
        if document["id"] in series:
            document["series"] = series[document["id"]]
    return documents, all(document["ours"] is not None for document in documents)


def network(options):
    if options.topology:
        return "--topology", options.topology
    if options.map:
        return "--map", options.map
    return (options.nodes or NODES,)


def steady(results, answer):
    found = answer["steady"]
    wire = Figure("sim_steady_bytes_per_s", "B/s", "Bytes a node sends while nothing happens, headers included", more_is_better=False, targets=(Target(1000),))
    results.put(wire.id, OURS, found["wire_bytes_per_s"])
    results.note(wire.id, OURS, f"payload {found['payload_bytes_per_s']:.0f} B/s, of it link state {found['link_state_bytes_per_s']:.0f} B/s; "
                 f"{found['datagrams_per_s']:.1f} datagrams a second")
    if answer["start_ms"] is None:  # A larger fleet is made as one that is in sync.
        return (wire,)
    start = Figure("sim_start_ms", "ms", "All nodes start at once, until all databases agree", more_is_better=False)
    results.put(start.id, OURS, answer["start_ms"])
    return wire, start


def record(results, answer, nodes):
    found = answer["record"]
    messages = Figure("sim_record_messages", "", f"Messages that carry one record to {nodes} nodes", more_is_better=False,
                      targets=(Target(MESSAGES_PER_NODE * nodes),))
    results.put(messages.id, OURS, found["messages"])
    results.note(messages.id, OURS, f"with acknowledgements {found['with_acknowledgements']}, {found['bytes']} bytes of records")
    after = Figure("sim_record_ms", "ms", "One record, until everybody has it", more_is_better=False)
    if found["everybody_after_ms"] is None:
        results.explain(after.id, "not everybody got it within 5 s")
    else:
        results.put(after.id, OURS, found["everybody_after_ms"])
    return messages, after


def restart(results, answer):
    return [synced(results, answer[name], f"sim_{name}_ms", how) for name, how in (("restart", "was stopped"), ("crash", "crashed"))]


def synced(results, found, name, how):
    synced = Figure(name, "ms", f"A node that {how} came back, from when both ends use its first link to the whole database, signatures judged",
                    more_is_better=False, targets=(Target(250),))
    results.put(synced.id, OURS, found["synced_after_first_link_ms"] + found["signatures_ms_of_this_machine"])
    results.note(synced.id, OURS, f"{found['records']} records: {found['synced_after_first_link_ms']:.0f} ms on the way at 10 ms a round trip, "
                 f"{found['signatures_ms_of_this_machine']:.0f} ms for signatures on this machine, one after the other; first link after {found['first_link_after_ms']} ms; "
                 f"{found['messages']} messages, {found['bytes']} bytes")
    return synced


def failures(results, outcome):
    cut = outcome["cut"]
    links = "one link" if cut == 1 else f"{cut} links"
    rows = (
        (Figure(f"sim_outage_{cut}_ms", "ms", f"{links} with traffic cut at once: longest outage of a pair", more_is_better=False), "longest_outage_ms"),
        (Figure(f"sim_converged_{cut}_ms", "ms", f"{links} cut at once: until the last route changed", more_is_better=False), "converged_ms"),
        (Figure(f"sim_circling_{cut}", "", f"{links} cut at once: pairs whose packets ever went in circles", more_is_better=False, targets=(Target(0),)), "ever_circled"),
    )
    for figure, key in rows:
        results.put(figure.id, OURS, outcome[key])
        results.note(figure.id, OURS, f"of {outcome['pairs']} pairs that crossed them; median outage {outcome['median_outage_ms']} ms; "
                     f"{outcome['path_changes']} path changes, {outcome['messages']} messages, {outcome['bytes']} bytes")
    return [figure for figure, _ in rows]
