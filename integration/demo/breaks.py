"""What the demo breaks, one after another, and what is measured each time: a probe every 10 ms from a1 to its target.

Each break says which topology events must follow; `Ledger` compares them with what the stream brought.
"""

import statistics
import time

from lab.net import LabError, wait_until
from lab.probe import Stream


class Breaker:
    def __init__(self, stage, ledger, say):
        self.stage, self.ledger, self.say = stage, ledger, say
        self.results = []

    def run_all(self):
        for target, what, hurt in (
            ("b1", "link cut silently, the used relay's near side", self.cut_near),
            ("b1", "link cut silently, the used relay's far side", self.cut_far),
            ("b1", "relay killed with -9", self.kill_relay),
            ("b1", "30 % loss on the used link", self.lossy_link),
            ("b1", "relay stopped", self.stop_relay),
            ("a2", "direct link cut silently", self.cut_near),
        ):
            self.run_one(target, what, hurt)
        outages = [result["outage_ms"] for result in self.results]
        return {"median": statistics.median(outages), "max": max(outages)}

    def run_one(self, target, what, hurt):
        stage = self.stage
        stream = Stream(stage.lab.hosts["a1"], stage.mesh.addresses["a1"], stage.lab.hosts[target], stage.mesh.addresses[target])
        try:
            before = wait_until(lambda: stream.flowing() and stage.way("a1", target), 30, f"no probes from a1 to {target}", step=0.2)
            time.sleep(1)
            before = self.settled_way(target) or before
            self.say(f"{what}: {' > '.join(before)} breaks", broken=None)
            since = time.monotonic_ns()
            heal, left = hurt(before)
            time.sleep(1)
            self.wait_for_flow(stream)
            until = time.monotonic_ns() - 250_000_000
            after = stage.mesh.agents["a1"].path_of_flow(target)
            result = {"what": what, "target": target, **stream.outage(since, left or until), "path_before": before, "path_after": after}
            if hurt == self.lossy_link:
                result["left_after_ms"] = round((left - since) / 1e6) if left else None
            healed_at = time.monotonic_ns()
            heal()
            self.wait_for_flow(stream)
            result["lost_on_restore"] = stream.outage(healed_at, time.monotonic_ns() - 250_000_000)["lost"]
        finally:
            stream.stop()
        self.results.append(result)
        self.say(f"  out for {result['outage_ms']} ms, {result['lost']} lost, then {' > '.join(after)}", broken=None)

    def settled_way(self, target):
        """The probes' way; to a2 the direct one is waited for, which a busy machine may take a while to prefer."""
        agent = self.stage.mesh.agents["a1"]
        for _ in range(40 if target == "a2" else 1):
            way = agent.path_of_flow(target)
            if way == ["a1", target]:
                break
            time.sleep(0.3)
        return way

    def wait_for_flow(self, stream):
        """Recovered, or given up after 30 s: then the outage says how long it was."""
        try:
            wait_until(lambda: stream.flowing(60), 30, "no recovery", step=0.1)
        except LabError:
            pass

    def cut_near(self, way):
        return self.cut(way[0], way[1])

    def cut_far(self, way):
        return self.cut(way[1], way[2])

    def cut(self, a, b):
        link = self.stage.lab.between(a, b)
        self.ledger.expect_link(a, b, "down")
        link.cut()
        self.say(f"  silent: {a} - {b}", broken=(a, b))

        def heal():
            link.restore()
            self.ledger.expect_link(a, b, "up")
            wait_until(lambda: self.stage.link_is_up(a, b), 90, f"the link {a} - {b} does not come back", step=0.2)
        return heal, None

    def kill_relay(self, way):
        return self.without(way[1], lambda agent: agent.kill())

    def stop_relay(self, way):
        return self.without(way[1], lambda agent: agent.stop())

    def without(self, name, end):
        agent = self.stage.mesh.agents[name]
        neighbours = [other for link in self.stage.lab.links for other in link - {name} if name in link and other != "hub"]
        for other in neighbours:
            self.ledger.expect_direction(other, name, "down")
        end(agent)
        self.say(f"  gone: {name}", broken=(name,))

        def heal():
            agent.start()
            for other in neighbours:
                self.ledger.expect_direction(other, name, "up")
            wait_until(lambda: self.stage.status_of(agent), 20, f"{name} does not come back", step=0.2)
            wait_until(lambda: all(self.stage.link_is_up(other, name) for other in neighbours), 90,
                       f"the links of {name} do not come back", step=0.3)
        return heal, None

    def lossy_link(self, way):
        a, b = way[0], way[1]
        link = self.stage.lab.between(a, b)
        self.ledger.expect_direction(a, b, "lossy")
        link.lose(30)
        self.say(f"  30 % loss: {a} - {b}", broken=(a, b))
        begun, left = time.monotonic(), None
        while time.monotonic() - begun < 10:
            now = self.stage.mesh.agents[a].path_of_flow(way[-1], seconds=0.1)
            if now and now[1] != b:
                left = time.monotonic_ns()
                break
            time.sleep(0.05)

        def heal():
            link.restore()
            time.sleep(1)
        return heal, left


class Ledger:
    """Events that must come, against events that came."""

    def __init__(self, stage):
        self.stage = stage
        self.wanted = []

    def expect_node(self, name):
        self.wanted.append((f"node {name}", 0, lambda event: event["kind"] == "node" and (event["after"] or {}).get("name") == name))

    def expect_link(self, a, b, state):
        self.expect_direction(a, b, state)
        self.expect_direction(b, a, state)

    def expect_direction(self, a, b, state):
        """From what is expected on, the next event about this direction that says `state`."""
        seen = len(self.stage.read_events())
        self.wanted.append((f"{a}>{b} {state}", seen, lambda event: is_link(event, a, b) and says(event, state)))

    def balance(self, seconds=20):
        """Waits for the last events, then counts."""
        try:
            wait_until(lambda: not self.missing(), seconds, "some events did not come", step=0.3)
        except LabError:
            pass
        events = self.stage.read_events()
        numbers = [int(str(event["id"]).split(":")[-1]) for event in events]
        gaps = len(set(range(min(numbers), max(numbers) + 1)) - set(numbers)) if numbers else 0
        missing = self.missing()
        return {"expected": len(self.wanted), "seen": len(self.wanted) - len(missing), "lost": len(missing) + gaps,
                "duplicated": len(numbers) - len(set(numbers)), "total": len(events)}, missing

    def missing(self):
        events = self.stage.read_events()
        return [title for title, since, fits in self.wanted if not any(fits(event) for event in events[since:])]


def is_link(event, a, b):
    entity = event["after"] or event["before"] or {}
    return event["kind"] == "link" and entity.get("from_name") == a and entity.get("to_name") == b


def says(event, state):
    after = event["after"]
    up = bool(after) and after["confirmed"] and after["cost_us"] is not None
    if state == "lossy":
        # The advertised price follows the loss even where the reported loss is a cautious lower bound.
        return bool(after) and after["loss_ppm"] >= 50_000
    return up if state == "up" else not up
