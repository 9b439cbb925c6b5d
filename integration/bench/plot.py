#!/usr/bin/env python3
"""Bar charts of figures as SVG, written by hand: one bar per contestant, whiskers from least to most, a line at the limit.

    plot.py DOCUMENT.json DIR     draws what `tools/bench NAME --json` printed; `tools/bench NAME --plots DIR` does it at once
"""

import json
import os
import sys
from xml.sax.saxutils import escape

from results import LIMIT, OURS

WIDTH, LEFT, RIGHT = 760, 150, 90
BAR, GAP, TOP, BOTTOM = 20, 9, 62, 46
INK, PALE, GRID = "#222", "#666", "#ddd"
COLOURS = {"ours": "#c2410c", "limit": "#9ca3af", "peer": "#3b6ea5"}
FONT = 'font-family="DejaVu Sans, Verdana, sans-serif"'


def write_all(figures, folder):
    """Writes FOLDER/<id>.svg for each figure with a value of ours; returns the paths."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    for figure in figures:
        if figure["ours"] is None:
            continue
        path = os.path.join(folder, f"{figure['id']}.svg")
        with open(path, "w") as out:
            out.write(chart(figure))
        paths.append(path)
        if figure.get("series"):
            paths.append(os.path.join(folder, f"{figure['id']}-over-time.svg"))
            with open(paths[-1], "w") as out:
                out.write(course(figure["title"], **figure["series"]))
    return paths


def course(title, tick_ms, of, **lines):
    """Curves over time, one a name: how many of `of` were in that state at each tick."""
    height, right = 300, WIDTH - RIGHT
    bottom = height - BOTTOM
    times, most = marks(tick_ms * max(len(values) for values in lines.values())), marks(max(1, *(max(values) for values in lines.values())))
    across, up = (right - LEFT) / times[-1], (bottom - TOP) / most[-1]
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
             f"<title>{escape(title)}</title>", f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             text(16, 24, title, size=16, weight="bold"), text(16, 44, f"of {of} pairs of nodes, over time in ms", size=12, fill=PALE)]
    for tick in times:
        parts += [line(LEFT + tick * across, TOP, LEFT + tick * across, bottom, GRID),
                  text(LEFT + tick * across, bottom + 16, number(tick), size=11, fill=PALE, anchor="middle")]
    for tick in most:
        parts.append(text(LEFT - 8, bottom - tick * up + 4, number(tick), size=11, fill=PALE, anchor="end"))
    for row, ((name, values), colour) in enumerate(zip(lines.items(), (COLOURS["ours"], COLOURS["peer"]))):
        points = " ".join(f"{LEFT + (at + 1) * tick_ms * across:.1f},{bottom - value * up:.1f}" for at, value in enumerate(values))
        parts += [f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
                  text(right, TOP + 16 * row, name, size=12, fill=colour, anchor="end", weight="bold")]
    return "\n".join(parts) + "\n</svg>\n"


def chart(figure):
    bars = ordered(figure)
    height = TOP + len(bars) * (BAR + GAP) + BOTTOM
    most = max(max(value, high) for _, _, value, _, high in bars)
    ticks = marks(most)
    scale = (WIDTH - LEFT - RIGHT) / (ticks[-1] or 1)
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">',
             f"<title>{escape(figure.get('title') or figure['id'])}</title>",
             f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
             text(16, 24, figure.get("title") or figure["id"], size=16, weight="bold"), text(16, 44, subtitle(figure), size=12, fill=PALE)]
    bottom = height - BOTTOM
    for tick in ticks:
        x = LEFT + tick * scale
        parts += [line(x, TOP - 4, x, bottom, GRID), text(x, bottom + 16, number(tick), size=11, fill=PALE, anchor="middle")]
    for row, (name, role, value, low, high) in enumerate(bars):
        parts += bar(TOP + row * (BAR + GAP), scale, name, role, value, low, high)
    limit = figure.get("limit")
    if limit is not None:
        x = LEFT + limit * scale
        parts += [line(x, TOP - 6, x, bottom + 2, INK, ' stroke-dasharray="5 3"'),
                  text(x, bottom + 32, f"limit {number(limit)}", size=11, anchor="middle")]
    return "\n".join(parts) + "\n</svg>\n"


def subtitle(figure):
    unit = f"{figure['unit']}; " if figure["unit"] else ""
    whiskers = f", whiskers from least to most of {figure['n']}" if figure["n"] > 1 else ""
    return f"{unit}{figure.get('better', 'more')} is better; medians{whiskers}"


def ordered(figure):
    """Name, role, median, least, most: ours and the peers from the best down, then the limits."""
    spread = figure.get("spread", {})
    limits = figure.get("limits") or ({LIMIT: figure["limit"]} if figure.get("limit") is not None else {})
    runners = [(OURS, "ours", figure["ours"])] + [(name, "peer", value) for name, value in figure["peers"].items()]
    runners.sort(key=lambda runner: runner[2], reverse=figure.get("better", "more") == "more")
    rows = runners + [(name, "limit", value) for name, value in limits.items()]
    own = {OURS: [figure["min"], figure["max"]]}
    return [(name, role, value, *({**spread, **own}.get(name) or [value, value])) for name, role, value in rows]


def bar(y, scale, name, role, value, low, high):
    middle, end = y + BAR / 2, LEFT + value * scale
    parts = [text(LEFT - 8, middle + 4, name, size=12, anchor="end", weight="bold" if role == "ours" else "normal"),
             f'<rect x="{LEFT}" y="{y:.1f}" width="{max(end - LEFT, 0.5):.1f}" height="{BAR}" fill="{COLOURS[role]}"/>']
    if high > low:
        start, stop = LEFT + low * scale, LEFT + high * scale
        parts += [line(start, middle, stop, middle, INK)]
        parts += [line(x, middle - 4, x, middle + 4, INK) for x in (start, stop)]
    parts.append(text(max(end, LEFT + high * scale) + 6, middle + 4, number(value), size=12))
    return parts


def marks(most):
    """Round numbers from 0 to at least `most`, four to eight steps."""
    if most <= 0:
        return [0, 1]
    step = 10.0 ** (len(f"{int(most)}") if most >= 1 else 0)
    while most / step < 4:
        step /= 10
    step *= next(factor for factor in (1, 2, 5, 10) if most / (step * factor) <= 8)
    count = int(most / step) + (most % step > step * 1e-9)
    return [step * number for number in range(count + 1)]


def number(value):
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def text(x, y, words, size, fill=INK, anchor="start", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" {FONT} font-size="{size}" font-weight="{weight}" fill="{fill}" '
            f'text-anchor="{anchor}">{escape(str(words))}</text>')


def line(x1, y1, x2, y2, colour, more=""):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}"{more}/>'


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    with open(sys.argv[1]) as document:
        for written in write_all(json.load(document)["figures"], sys.argv[2]):
            print(written)
