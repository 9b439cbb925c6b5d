#!/usr/bin/env python3
"""A mesh of six nodes on this machine that is broken six times and heals: run it through tools/demo.

    demo.py            live: the topology in the terminal and on a loopback page
    demo.py --script   unattended; exit code 0 when everything held
    --json             one document `wattle.demo/v1` on stdout
    --kafka HOST:PORT  the coordinator mirrors into this broker, and the stream is verified there
    --keep             stay after the last break until Ctrl-C
"""

import argparse
import json
import os
import sys
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE), HERE]

from breaks import Breaker, Ledger  # noqa: E402
from lab.mesh import binaries  # noqa: E402
from lab.net import Lab, LabError  # noqa: E402
from stage import LINKS, NODES, Stage, processes_of  # noqa: E402
from view import View  # noqa: E402


def play(lab, options, document):
    """The whole story; fills the document as it goes, so that what was measured is not lost to a late failure."""
    stage = Stage(lab, lambda text: view.say(text), options.kafka)
    view = View(stage, LINKS, live=not options.script)
    if not options.script:
        view.say(f"the topology as a picture: {view.serve()}")
    ledger = Ledger(stage)
    for name in NODES:
        ledger.expect_node(name)
    stage.build()
    pairs = len(NODES) * (len(NODES) - 1)
    document.update(nodes=len(NODES), pairs=pairs, pairs_reachable=pairs - len(stage.mesh.unreachable_pairs()))
    view.say("iperf3, one TCP stream: a1 to a2 (direct), a1 to b1 (through a relay)")
    document["throughput_mbit"] = {"direct": stage.throughput("a1", "a2", options.seconds),
                                   "relayed": stage.throughput("a1", "b1", options.seconds)}
    view.say(f"  {document['throughput_mbit']['direct']} Mbit/s direct, {document['throughput_mbit']['relayed']} Mbit/s relayed")
    breaker = Breaker(stage, ledger, view.say)
    document["breaks"] = breaker.results
    document["outage_ms"] = breaker.run_all()
    document["events"], missing = ledger.balance()
    view.say(f"events: {document['events']}" + (f", missing: {missing}" if missing else ""))
    if options.kafka:
        document["kafka"] = stage.admin("topology", "verify", "--kafka", options.kafka, "--coordinator-state", stage.state)
    document["agents_ended"] = stage.mesh.ended()
    if options.keep:
        view.say("everything stays until Ctrl-C")
        while True:
            time.sleep(1)
    view.ended.set()


# What the mesh promises with its defaults.
OUTAGE_MS = 300
LEFT_AFTER_MS = 3000


def verdict(document):
    """What did not hold, in words."""
    wrong = []
    if document.get("error"):
        wrong.append(document["error"])
    if document.get("pairs_reachable") != document.get("pairs"):
        wrong.append("some pairs do not reach each other")
    if len(document.get("breaks", [])) < 6:
        wrong.append("not every break was played")
    left = [result["left_after_ms"] for result in document.get("breaks", []) if "left_after_ms" in result]
    if any(after is None for after in left):
        wrong.append("the lossy link was not left within 10 s")
    elif not left or max(left) > LEFT_AFTER_MS:
        wrong.append(f"the lossy link was not left within {LEFT_AFTER_MS} ms: {left}")
    outage = document.get("outage_ms", {}).get("median")
    if outage is None or outage > OUTAGE_MS:
        wrong.append(f"the median outage is {outage} ms, not at most {OUTAGE_MS}")
    if any(not result["path_after"] for result in document.get("breaks", [])):
        wrong.append("a break left no way")
    events = document.get("events", {})
    if events.get("lost") or events.get("duplicated") or events.get("seen") != events.get("expected"):
        wrong.append("topology events were lost or duplicated")
    if document.get("agents_ended"):
        wrong.append("an agent ended by itself")
    if document.get("leftovers"):
        wrong.append("something was left behind")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", action="store_true", help="unattended: plain lines on stderr, no page")
    parser.add_argument("--json", action="store_true", help="print one document wattle.demo/v1 on stdout")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="mirror into this broker")
    parser.add_argument("--keep", action="store_true", help="stay until Ctrl-C")
    parser.add_argument("--seconds", type=int, default=4, help="length of each iperf3 run")
    options = parser.parse_args()
    # `wattle init` calls its sister programs by name.
    os.environ["PATH"] = f"{binaries()}:{os.environ['PATH']}"
    document = {"schema": "wattle.demo/v1"}
    begun = time.monotonic()
    lab = Lab()
    try:
        play(lab, options, document)
    except KeyboardInterrupt:
        document["error"] = None if options.keep else "interrupted"
    except LabError as error:
        document["error"] = str(error)
    except Exception as error:
        document["error"] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
    finally:
        document["leftovers"] = lab.close() + processes_of(lab.folder)
        document["seconds"] = round(time.monotonic() - begun)
    wrong = verdict(document)
    if options.json:
        print(json.dumps(document, indent=2))
    for line in wrong:
        print(f"demo: {line}", file=sys.stderr)
    outage = document.get("outage_ms")
    if outage:
        print(f"outage after a break: median {outage['median']:.0f} ms, most {outage['max']} ms", file=sys.stderr)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
