"""Samples by figure and contestant, what they come to, and the document `wattle.bench/v1`."""

import json
import os
import statistics
import sys
import time
from dataclasses import dataclass

SCHEMA = "wattle.bench/v1"
OURS = "wattle"
# The contestant whose figure is `limit`: what the machine can carry without cryptography.
LIMIT = "shuttle"


def say(text):
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Target:
    """What a figure should be: `value` times what `against` reached, or the value itself when `against` is None."""

    value: float
    against: str = None

    def judge(self, ours, others, more_is_better):
        base = 1 if self.against is None else others.get(self.against)
        if ours is None or not base:
            return None
        return ours >= self.value * base if more_is_better else ours <= self.value * base

    def document(self, ours, others, more_is_better):
        base = others.get(self.against) if self.against else None
        return {"at_least" if more_is_better else "at_most": self.value, "times": self.against,
                "got": rounded(ours / base) if ours is not None and base else rounded(ours),
                "met": self.judge(ours, others, more_is_better)}


@dataclass(frozen=True)
class Figure:
    """One row of a result. `beside`: the figure whose limits and peers it is compared with, when those are not its own."""

    id: str
    unit: str
    title: str
    more_is_better: bool = True
    beside: str = None
    targets: tuple = ()


def rounded(value):
    """Five digits; counts stay what they are."""
    return value if value is None or isinstance(value, int) else float(f"{value:.5g}")


class Results:
    """Collects samples, and reasons why there are none."""

    def __init__(self, limits=(LIMIT,)):
        self.limits = limits
        self.samples = {}
        self.reasons = {}
        # Figures of what this agent does not have: no failure of the bench.
        self.lacking = set()
        self.notes = {}

    def put(self, figure, contestant, value):
        self.samples.setdefault(figure, {}).setdefault(contestant, []).append(value)

    def explain(self, figure, reason):
        """Says why ours could not be measured; the first reason stays, since later ones often follow from it."""
        self.reasons.setdefault(figure, reason)

    def note(self, figure, contestant, text):
        self.notes.setdefault(figure, {})[contestant] = text

    def median(self, figure, contestant):
        values = self.samples.get(figure, {}).get(contestant)
        return statistics.median(values) if values else None

    def document(self, figure):
        """The figure as the document has it: medians, and how ours stand to the limits and the best peer."""
        ours = self.samples.get(figure.id, {}).get(OURS, [])
        beside = {who: values for who, values in self.samples.get(figure.beside, {}).items() if who != OURS}
        compared = {**beside, **self.samples.get(figure.id, {})}
        medians = {who: statistics.median(values) for who, values in compared.items() if who != OURS}
        limits = {who: value for who, value in medians.items() if who in self.limits}
        peers = {who: value for who, value in medians.items() if who not in self.limits}
        value = statistics.median(ours) if ours else None
        best = (max if figure.more_is_better else min)(peers.values(), default=None)
        ratios = {who: ratio(value, other) for who, other in [*limits.items(), ("best peer", best)]}
        ratios = {who: one for who, one in ratios.items() if one is not None}
        document = {
            "id": figure.id, "title": figure.title, "unit": figure.unit, "better": "more" if figure.more_is_better else "less",
            "ours": rounded(value), "peers": {who: rounded(one) for who, one in peers.items()},
            "limit": rounded(limits.get(LIMIT)), "limits": {who: rounded(one) for who, one in limits.items()},
            "ratio": ratios.get(LIMIT, ratios.get("best peer")), "ratios": ratios,
            "n": len(ours), "min": rounded(min(ours, default=None)), "max": rounded(max(ours, default=None)),
            "spread": {who: [rounded(min(values)), rounded(max(values))] for who, values in compared.items()},
            "targets": [target.document(value, medians, figure.more_is_better) for target in figure.targets],
        }
        if self.notes.get(figure.id):
            document["notes"] = self.notes[figure.id]
        if value is None:
            document["reason"] = self.reasons.get(figure.id, "no round measured it, see the progress on stderr")
        return document


def ratio(value, other):
    return round(value / other, 3) if value is not None and other else None


def tell(figure):
    """One figure as a line for people."""
    line = f"{figure['id']:28} {figure['ours']} {figure['unit']}  n {figure['n']} ({figure['min']} to {figure['max']})"
    for word in ("limits", "peers"):
        if figure[word]:
            line += "  " + ", ".join(f"{who} {value}" for who, value in figure[word].items())
    line += f"  ratio {figure['ratio']}"
    for target in figure["targets"]:
        bound = "at_least" if "at_least" in target else "at_most"
        sign, verdict = (">=" if bound == "at_least" else "<="), {True: "met", False: "missed", None: "not judged"}[target["met"]]
        line += f"  [{sign} {target[bound]}{' x ' + target['times'] if target['times'] else ''}: {target['got']}, {verdict}]"
    return line + (f"  ({figure['reason']})" if figure["ours"] is None else "")


def document(bench, begun, figures, **more):
    return {"schema": SCHEMA, "bench": bench, "seconds": round(time.time() - begun), "cores": os.cpu_count(),
            "kernel": os.uname().release, **more, "figures": figures}


def write(path, whole):
    with open(path, "w") as out:
        json.dump(whole, out, indent=1)
        out.write("\n")
