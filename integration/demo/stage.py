"""The demo's six nodes: two sites whose hosts meet through two relays, a coordinator, and a way to break things.

        a1 ---- a2          a1, a2: site a; b1, b2: site b
        | \\  / |            no packet of the underlay goes from a site to the other:
        r1 ---- r2          everything between them crosses r1 or r2
        | /  \\ |
        b1 ---- b2          hub: the coordinator, with a wire of its own to each node
"""

import json
import os
import socket
import time

from lab import bridge
from lab import mesh as wattle_mesh
from lab.mesh import Agent, Mesh
from lab.net import LabError, run, wait_until

NODES = ["a1", "a2", "r1", "r2", "b1", "b2"]
LINKS = [("a1", "a2"), ("a1", "r1"), ("a1", "r2"), ("a2", "r1"), ("a2", "r2"), ("r1", "r2"),
         ("r1", "b1"), ("r1", "b2"), ("r2", "b1"), ("r2", "b2"), ("b1", "b2")]
SITE = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "r1": "core", "r2": "core"}
HUB = "10.9.0.1"


class Stage:
    """Underlay, coordinator and agents of one demo."""

    def __init__(self, lab, say, kafka=None):
        self.lab, self.say, self.kafka = lab, say, kafka
        self.mesh = Mesh()
        self.events = None

    def build(self):
        self.say("six hosts, eleven wires, a coordinator with a wire to each")
        hosts = {name: self.lab.host(name) for name in NODES}
        for number, (a, b) in enumerate(LINKS, 1):
            self.lab.link(hosts[a], hosts[b], f"10.1.{number}")
        hub = self.lab.host("hub")
        hub.address("lo", f"{HUB}/32")
        for number, (name, host) in enumerate(hosts.items(), 1):
            self.lab.link(hub, host, f"10.9.{number}")
            host.ip("route", "add", f"{HUB}/32", "via", f"10.9.{number}.1")
        self.hub = hub
        self.start_coordinator()
        for name in NODES:
            self.join(name)
        self.say(f"mesh whole after {self.mesh.wait_until_whole(60):.1f} s")

    def start_coordinator(self):
        self.state = os.path.join(self.hub.folder, "coordinator")
        self.admin("init", "--name", "demo", "--advertise", f"{HUB}:5741", "--state", self.state, "--no-join")
        if self.kafka:
            # The hub has no way out of the lab; brokers that the first one names must be reachable at its address, too.
            address, port = self.kafka.rsplit(":", 1)
            bridge.into(self.lab, self.hub, socket.gethostbyname(address), port)
        self.serve()
        self.events_path = os.path.join(self.lab.folder, "events.jsonl")
        with open(self.events_path, "w") as out:
            program = os.path.join(wattle_mesh.binaries(), "wattle")
            self.events = self.hub.spawn([program, "topology", "tail", "--from-start", "--json", "--coordinator-state", self.state],
                                         stdout=out)

    def serve(self):
        program = os.path.join(wattle_mesh.binaries(), "wattle-coordinator")
        self.coordinator_log = os.path.join(self.hub.folder, "coordinator.log")
        config = os.path.join(self.hub.folder, "coordinator.toml")
        with open(config, "w") as out:
            out.write(f"[kafka]\nbrokers = [{json.dumps(self.kafka)}]\n" if self.kafka else "")
        self.coordinator = self.hub.spawn([program, "serve", "--state", self.state, "--config", config], log=self.coordinator_log)
        wait_until(lambda: "5741" in self.hub.run(["ss", "-Hltn"]).stdout or self.coordinator.poll() is not None, 15,
                   "the coordinator does not listen")
        if self.coordinator.poll() is not None:
            raise LabError(f"the coordinator ended: {open(self.coordinator_log).read()[-800:]}")

    def admin(self, *words):
        program = os.path.join(wattle_mesh.binaries(), "wattle")
        answer = self.hub.run([program, "--json", *words])
        return json.loads(answer.stdout.splitlines()[-1])["data"] if answer.stdout.strip() else {}

    def join(self, name):
        host = self.lab.hosts[name]
        token = self.admin("tokens", "create", "--name", name, "--site", SITE[name], "--coordinator-state", self.state)["token"]
        agent = Agent(host, os.path.join(host.folder, "state"))
        program = os.path.join(wattle_mesh.binaries(), "wattle")
        host.run([program, "join", token, "--state", agent.state, "--name", name, "--no-start"])
        agent.start()
        status = wait_until(lambda: self.status_of(agent), 20, f"{name}: wattled does not answer; its log ends:\n{agent.tail_of_log()}")
        address = next(address for address in status["addresses"] if ":" not in address)
        self.mesh.add(agent, address)
        self.say(f"{name} joined as {address}")

    @staticmethod
    def status_of(agent):
        answer = agent.wattle("status", "--json", check=False)
        return json.loads(answer.stdout)["data"] if answer.returncode == 0 else None

    def way(self, source, target):
        return self.mesh.agents[source].path_to(target)

    def link_is_up(self, a, b):
        """True when both ends use their link."""
        def up(me, other):
            links = self.mesh.agents[me].ask("links")["links"]
            return any(link["peer"]["name"] == other and link["state"] == "up" for link in links)
        return up(a, b) and up(b, a)

    def throughput(self, source, target, seconds):
        address = self.mesh.addresses[target]
        server = self.lab.hosts[target].spawn(["iperf3", "-s", "-1", "-B", address])
        time.sleep(0.4)
        answer = self.lab.hosts[source].run(["iperf3", "-c", address, "-t", str(seconds), "-J"], check=False, timeout=seconds + 30)
        server.kill()
        server.wait()
        result = json.loads(answer.stdout or "{}")
        if "end" not in result or "error" in result:
            raise LabError(f"iperf3 {source} to {target}: {result.get('error', answer.stderr)}")
        return round(result["end"]["sum_received"]["bits_per_second"] / 1e6, 1)

    def read_events(self):
        """The events so far, oldest first."""
        events = []
        with open(self.events_path) as lines:
            for line in lines:
                if line.endswith("\n"):
                    document = json.loads(line)
                    events.append(document.get("data", document))
        return [event for event in events if isinstance(event, dict) and "key" in event]


def processes_of(folder):
    """Processes that still run from the demo's folder."""
    found = run(["pgrep", "-af", folder], check=False).stdout.splitlines()
    return [f"process {line}" for line in found if str(os.getpid()) != line.split()[0]]
