"""The demo as a person sees it: lines in the terminal, and the topology as a picture on a loopback page.

Asks one agent for the mesh about twice a second; what it draws is what that node knows.
"""

import http.server
import json
import shutil
import sys
import threading
import time

PLACES = {"a1": (130, 90), "a2": (470, 90), "r1": (130, 260), "r2": (470, 260), "b1": (130, 430), "b2": (470, 430)}

PAGE = """<!doctype html><meta charset="utf-8"><title>Wattle demo</title>
<style>body{font:15px system-ui,sans-serif;margin:2em;max-width:60em;color:#222;background:#fafaf7}pre{white-space:pre-wrap}</style>
<h1>Wattle demo</h1><div id="picture">one moment ...</div><pre id="log"></pre>
<script>
async function draw() {
  try {
    document.getElementById("picture").innerHTML = await (await fetch("topology.svg")).text();
    document.getElementById("log").textContent = (await (await fetch("state.json")).json()).log.join("\\n");
  } catch (e) { document.getElementById("log").textContent += "\\n(the demo has ended)"; return; }
  setTimeout(draw, 700);
}
draw();
</script>"""


class View:
    def __init__(self, stage, links, live):
        self.stage, self.links, self.live = stage, links, live
        self.begun = time.monotonic()
        self.log, self.broken, self.topo, self.way = [], (), None, []
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.drawn = 0

    def say(self, text, broken=()):
        """One line of the story; `broken` marks a link (two names) or a node (one) in the picture, None clears the mark."""
        with self.lock:
            self.log.append(f"[{time.monotonic() - self.begun:5.1f}] {text}")
            if broken is None or broken:
                self.broken = broken or ()
        if not (self.live and sys.stderr.isatty()):
            print(self.log[-1], file=sys.stderr, flush=True)

    def serve(self):
        """Starts page and terminal view; returns the page's address."""
        view = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                kind, body = view.answer(self.path)
                self.send_response(200 if body else 404)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write((body or "").encode())

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Thread(target=self.watch, daemon=True).start()
        self.address = f"http://127.0.0.1:{server.server_port}/"
        return self.address

    def answer(self, path):
        if path == "/":
            return "text/html; charset=utf-8", PAGE
        if path == "/topology.svg":
            return "image/svg+xml", self.picture()
        if path == "/state.json":
            with self.lock:
                return "application/json", json.dumps({"log": self.log[-20:], "topology": self.topo})
        return "text/plain", None

    def watch(self):
        while not self.ended.wait(0.5):
            agent = self.stage.mesh.agents.get("a1")
            try:
                topo = agent.ask("topo") if agent else None
                way = agent.path_to("b1") if agent else []
            except Exception:
                continue  # the agent is being started, or the demo ends: the next round knows
            with self.lock:
                self.topo, self.way = topo, way
            if self.live and sys.stderr.isatty():
                self.draw_terminal()

    def directions(self):
        """Names of both ends -> the direction's report, of all links that are in the database."""
        return {(link["from"]["name"], link["to"]["name"]): link for link in (self.topo or {}).get("links", [])}

    def draw_terminal(self):
        with self.lock:
            lines = [f"Wattle demo   {self.address}   a1 to b1: {' > '.join(self.way) or 'no way'}", ""]
            known = self.directions()
            for a, b in self.links:
                there = known.get((a, b))
                cells = "down" if not there or not known.get((b, a)) else (
                    f"up    {(there['rtt_us'] or 0) / 1000:6.2f} ms  loss {(there['loss_ppm'] or 0) / 10000:5.1f} %  cost {there['cost_us']}")
                lines.append(f"  {a} - {b}   {cells}{'   <- broken' if set(self.broken) & {a, b} and set(self.broken) <= {a, b} else ''}")
            lines += [""] + self.log[-12:]
        width = shutil.get_terminal_size().columns
        move = f"\x1b[{self.drawn}A\x1b[J" if self.drawn else ""
        self.drawn = len(lines)
        print(move + "\n".join(line[:width - 1] for line in lines), file=sys.stderr, flush=True)

    def picture(self):
        """The topology as SVG: thick and green is the way from a1 to b1, dashed and red is down."""
        with self.lock:
            known, way, broken = self.directions(), self.way, set(self.broken)
            nodes = {node["node"]["name"]: node for node in (self.topo or {}).get("nodes", [])}
        used = {frozenset(pair) for pair in zip(way, way[1:])}
        parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 600 520" width="600" font-family="sans-serif">']
        for a, b in self.links:
            (x1, y1), (x2, y2) = PLACES[a], PLACES[b]
            there = known.get((a, b))
            up = there and (b, a) in known
            style = 'stroke="#c0392b" stroke-width="2" stroke-dasharray="7 6"' if not up else (
                'stroke="#1e8449" stroke-width="7"' if frozenset((a, b)) in used else 'stroke="#95a5a6" stroke-width="2"')
            parts.append(f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" {style}/>')
            if up:
                third = 0.32  # off the middle, where diagonals cross
                label = f"{(there['rtt_us'] or 0) / 1000:.2f} ms" + (
                    f", {there['loss_ppm'] / 10000:.0f} % loss" if (there["loss_ppm"] or 0) > 10000 else "")
                parts.append(f'<text x="{x1 + (x2 - x1) * third + 8:.0f}" y="{y1 + (y2 - y1) * third - 6:.0f}" '
                             f'font-size="12" fill="#555">{label}</text>')
        for name, (x, y) in PLACES.items():
            gone = name in broken and len(broken) == 1 or name not in nodes or not nodes[name]["reachable"] and not nodes[name]["is_self"]
            parts.append(f'<circle cx="{x}" cy="{y}" r="30" fill="{"#f5b7b1" if gone else "#fcf3cf"}" stroke="#333" stroke-width="2"/>'
                         f'<text x="{x}" y="{y + 6}" text-anchor="middle" font-size="18">{name}</text>')
        return "\n".join(parts) + "\n</svg>"
