#!/usr/bin/env python3
"""Measures Wattle beside its peers in network namespaces on one machine: run it through tools/bench.

    bench.py dataplane   TCP, CPU, datagrams, round trips, memory; direct and relayed; beside limits and peers
    bench.py soak        minutes of streams through rekeys, overload, numbered packets
    bench.py idle        bytes, CPU and memory of a mesh of 6 and of 30 nodes that does nothing
    bench.py mirror      the topology stream in Kafka: latency, throughput, faults, take-over, outage, cold readers
    bench.py routing     healing in a ring of five with a chord, beside FRR, BIRD and babeld: outages, loss, delay, flapping, cost
    bench.py spf         shortest paths of 10,000 nodes, all at once and after a change; what backups cover on public networks
    bench.py sim         a thousand nodes in virtual time: convergence, flooding, restart, bytes

Everything shares the machine's cores, so only figures of one run compare. With --json the last line of stdout is one
document `wattle.bench/v1`; progress is on stderr. The exit code is 1 when a figure of ours that should be there is not.
"""

import argparse
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), os.path.join(HERE, "contestants")]

import dataplane  # noqa: E402
import idle  # noqa: E402
import mirror  # noqa: E402
import plot  # noqa: E402
import results  # noqa: E402
import routing  # noqa: E402
import sim  # noqa: E402
import soak  # noqa: E402
import spf  # noqa: E402
from lab.net import LabError  # noqa: E402

BENCHES = {"dataplane": dataplane, "soak": soak, "idle": idle, "mirror": mirror, "routing": routing, "spf": spf, "sim": sim}


def words(text):
    return [word for word in text.split(",") if word]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--json", action="store_true", help="print one document wattle.bench/v1 on stdout")
    parser.add_argument("--plots", metavar="DIR", help="draw each figure as DIR/<id>.svg")
    one = parser.add_argument_group("dataplane")
    one.add_argument("--rounds", type=int, default=5, help="how often each contestant is measured, in turn (default 5)")
    one.add_argument("--seconds", type=int, default=4, help="length of each iperf3 run (default 4)")
    one.add_argument("--only", type=words, metavar="A,B", help="figures by id, or groups: tcp udp rtt loaded rss direct relay quic wireguard …")
    one.add_argument("--peers", type=words, metavar="A,B", help="these peers, built where needed (default: those installed); '' for none")
    one.add_argument("--all-peers", action="store_true", help="build the peers of the crate registry that are missing, too")
    one.add_argument("--quick", action="store_true", help="one round, one second: whether it works, not how fast it is")
    one = parser.add_argument_group("soak")
    one.add_argument("--minutes", type=float, default=10, help="of four TCP streams (default 10)")
    one.add_argument("--packets", type=int, default=1_000_000, help="numbered packets (default 1,000,000); --peers runs those, too, and shuttle")
    one = parser.add_argument_group("idle")
    one.add_argument("--sizes", type=lambda text: [int(size) for size in words(text)], default=[6, 30], help="nodes (default 6,30)")
    one.add_argument("--settle", type=float, default=10, help="seconds before the measurement")
    one.add_argument("--seconds-idle", type=float, default=30, help="seconds of the measurement")
    one = parser.add_argument_group("mirror")
    one.add_argument("--full", action="store_true", help="a million events through 100 kills of the mirror, 30 of the broker, 10 paused leaders; 40 million wait in the outage (30 GB of disk); --only: latency latency3 throughput chaos takeover outage api cold")
    one = parser.add_argument_group("routing")
    one.add_argument("--rows", type=words, metavar="A,B", help=f"of {' '.join(routing.ROWS)} (default: all)")
    one.add_argument("--contestants", type=words, metavar="A,B", help="only these: " + ", ".join(each.name for each in routing.routers.ALL))
    one.add_argument("--cuts", type=int, default=30, help="cuts of each kind (default 30)")
    one.add_argument("--repeat", type=int, default=5, help="of loss and of delay (default 5)")
    one.add_argument("--loss-seconds", type=float, default=30, help="of 20 %% loss")
    one.add_argument("--delay-seconds", type=float, default=10, help="of 50 ms more")
    one.add_argument("--wave-seconds", type=float, default=600, help="of the square wave")
    one.add_argument("--false-seconds", type=float, default=600, help="of an oversubscribed CPU")
    one.add_argument("--keep", metavar="FILE", help="add the samples to FILE and judge all that are there: a table in several sittings")
    one = parser.add_argument_group("spf")
    one.add_argument("--runs", type=int, default=31, help="full runs, and forty changes of each kind after each (default 31)")
    one.add_argument("--graphs", metavar="DIR", default=os.environ.get("WATTLE_TOPOLOGIES") or spf.GRAPHS,
                     help="public networks (default: WATTLE_TOPOLOGIES, else those in integration/sim/graphs)")
    one = parser.add_argument_group("spf, sim")
    one.add_argument("--nodes", type=int, help="nodes of the random network or fleet (default 10,000 and 1,000)")
    one.add_argument("--seed", type=int, default=1, help="another seed is another network")
    one = parser.add_argument_group("sim")
    one = one.add_mutually_exclusive_group()
    one.add_argument("--topology", metavar="FILE", help="the links that FILE says, one a line: a b 5ms jitter 1ms loss 2%%")
    one.add_argument("--map", metavar="NAME|FILE", help="a public network: one of integration/sim/graphs, or a file of node-link JSON")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds, options.minutes, options.packets = 1, 1, 0.1, 20_000
    return options


def main():
    options = arguments()
    begun = time.time()
    figures, whole = BENCHES[options.name].run(options)
    for figure in figures:
        results.say(results.tell(figure))
    if options.plots:
        for path in plot.write_all(figures, options.plots):
            results.say(f"drawn: {path}")
    if options.json:
        print(json.dumps(results.document(options.name, begun, figures)))
    if not whole:
        sys.exit("some figures of ours could not be measured, see above")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"bench: {error}")
