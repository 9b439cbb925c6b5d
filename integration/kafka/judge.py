#!/usr/bin/env python3
"""Judges an events topic, with nothing of Wattle between broker and count: kcat reads, committed records only.

    judge.py --brokers B --topic T --last SEQ [--first SEQ]

Prints one line of JSON: events that are lost, that stand there twice, that are behind a newer one of their partition or
of their key, and headers that do not name the event before. The exit code is 1 when any of these is not 0.
"""

import argparse
import collections
import json
import subprocess
import sys

NOT_EVENTS = {"wattle-filler", "wattle-gap"}


def records(brokers, topic):
    command = ["kcat", "-C", "-b", brokers, "-t", topic, "-o", "beginning", "-e", "-q", "-X", "isolation.level=read_committed",
               "-f", "%p\t%o\t%k\t%h\n"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kcat:
        for line in kcat.stdout:
            partition, offset, key, headers = line.rstrip("\n").split("\t")
            yield int(partition), int(offset), key, dict(pair.split("=", 1) for pair in headers.split(",") if "=" in pair)
    if kcat.returncode:
        sys.exit(f"judge: kcat ended with {kcat.returncode}")


def judge(found, first, last):
    times = collections.Counter()
    in_partition, of_key, offsets = {}, {}, {}
    verdict = dict.fromkeys(("reordered", "reordered_per_key", "broken_links", "gaps", "fillers"), 0)
    for partition, offset, key, headers in found:
        if offsets.setdefault(partition, -1) >= offset:
            sys.exit(f"judge: offset {offset} after {offsets[partition]} in partition {partition}")
        offsets[partition] = offset
        if key == "wattle-filler":
            verdict["fillers"] += 1
            continue
        seq, prev = int(headers["wattle-seq"]), int(headers["wattle-prev-seq"])
        before = in_partition.get(partition, 0)
        verdict["broken_links"] += prev != before
        in_partition[partition] = max(seq, before)
        if key in NOT_EVENTS:
            verdict["gaps"] += 1
            continue
        times[seq] += 1
        verdict["reordered"] += seq < before
        verdict["reordered_per_key"] += seq < of_key.get(key, 0)
        of_key[key] = max(seq, of_key.get(key, 0))
    wanted = range(first, last + 1)
    lost = [seq for seq in wanted if not times[seq]]
    return {"events": len(times), "partitions": len(in_partition), "keys": len(of_key), "lost": len(lost),
            "lost_examples": lost[:10], "duplicated": sum(times.values()) - len(times),
            "strangers": sum(1 for seq in times if not first <= seq <= last), **verdict}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--last", type=int, required=True)
    options = parser.parse_args()
    verdict = judge(records(options.brokers, options.topic), options.first, options.last)
    print(json.dumps(verdict))
    bad = ("lost", "duplicated", "reordered", "reordered_per_key", "broken_links", "gaps", "strangers")
    sys.exit(any(verdict[fault] for fault in bad))


if __name__ == "__main__":
    main()
