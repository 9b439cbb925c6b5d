"""Wattle's programs on the hosts of a lab: an offline network, or a coordinator with nodes that join it.

Everything goes through the installed programs, as a person would use them; knows the shapes of their `--json` only.
"""

import json
import os
import subprocess
import time

from .net import LabError, run, wait_until

PORT = 51820


def binaries():
    """Finds the programs: WATTLE_BIN_DIR is set by tools/lib/setup.sh."""
    folder = os.environ.get("WATTLE_BIN_DIR")
    if not folder or not os.path.exists(os.path.join(folder, "wattled")):
        raise LabError("WATTLE_BIN_DIR must name the folder of wattled; tools/demo and tools/bench set it")
    return folder


class Agent:
    """One wattled on one host."""

    def __init__(self, host, state):
        self.host, self.state = host, state
        self.socket = os.path.join(host.folder, "wattled.sock")
        self.log = os.path.join(host.folder, "wattled.log")
        self.process = None

    @property
    def name(self):
        return self.host.name

    def start(self):
        program = os.path.join(binaries(), "wattled")
        self.process = self.host.spawn([program, "--state", self.state, "--socket", self.socket], log=self.log)
        return self

    def stop(self, seconds=5):
        """Asks the agent to end, as systemd does."""
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: wattled did not end within {seconds} s of SIGTERM") from None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def wattle(self, *words, check=True, timeout=20):
        program = os.path.join(binaries(), "wattle")
        return self.host.run([program, "--socket", self.socket, *words], check=check, timeout=timeout)

    def ask(self, *words, timeout=20):
        """Runs `wattle WORDS --json` and returns its `data`."""
        return json.loads(self.wattle(*words, "--json", timeout=timeout).stdout)["data"]

    def ways_to(self, name):
        """The used ways to a node, widest first: each a list of names, both ends included."""
        answer = self.wattle("path", name, "--json", check=False)
        if answer.returncode:
            return []
        ways = [way for way in json.loads(answer.stdout)["data"]["ways"] if way["role"] == "used" and way["hops"]]
        ways.sort(key=lambda way: -way["weight_ppm"])
        return [[way["hops"][0]["from"]["name"]] + [hop["to"]["name"] for hop in way["hops"]] for way in ways]

    def path_to(self, name):
        """The widest used way to a node; [] when there is none."""
        return next(iter(self.ways_to(name)), [])

    def path_of_flow(self, name, seconds=0.4):
        """The way that most packets take at this moment: flows are spread over ways, a stream of probes is one flow."""
        before = self.host.packets_sent()
        time.sleep(seconds)
        after = self.host.packets_sent()
        wires = [wire for wire in before if wire.startswith("to-")]
        first = max(wires, key=lambda wire: after[wire] - before[wire]).removeprefix("to-")
        ways = self.ways_to(name)
        return next((way for way in ways if way[1] == first), ways[0] if ways else [])

    def tail_of_log(self, lines=15):
        try:
            with open(self.log, errors="replace") as log:
                return "".join(log.readlines()[-lines:])
        except FileNotFoundError:
            return ""


class Mesh:
    """Agents by name, and the inner address of each."""

    def __init__(self):
        self.agents = {}
        self.addresses = {}

    def add(self, agent, address):
        self.agents[agent.name] = agent
        self.addresses[agent.name] = address

    def unreachable_pairs(self):
        """Ordered pairs without an answer to a ping inside the mesh."""
        missing = []
        for name, agent in self.agents.items():
            if not agent.alive():
                continue
            others = {address: other for other, address in self.addresses.items()
                      if other != name and self.agents[other].alive()}
            missing += [(name, others[address]) for address in set(others) - agent.host.reaches(list(others))]
        return missing

    def wait_until_whole(self, seconds=30):
        begun = time.monotonic()
        try:
            wait_until(lambda: not self.unreachable_pairs(), seconds, "the mesh is not whole", step=0.1)
        except LabError as error:
            logs = "\n".join(f"--- {name}\n{agent.tail_of_log()}" for name, agent in self.agents.items())
            raise LabError(f"{error}; no answer: {self.unreachable_pairs()}\n{logs}") from None
        return time.monotonic() - begun

    def ended(self):
        return [name for name, agent in self.agents.items() if not agent.alive()]


def offline(lab, plan, mtu=None):
    """Makes a network without a coordinator. `plan`: host name -> {addresses, endpoints, neighbours, …} as in nodes.toml."""
    folder = os.path.join(lab.folder, "network")
    lines = ["[network]", 'name = "lab"']
    for name, settings in plan.items():
        lines += ["[[node]]", f'name = "{name}"']
        lines += [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    description = os.path.join(lab.folder, "nodes.toml")
    with open(description, "w") as out:
        out.write("\n".join(lines) + "\n")
    run([os.path.join(binaries(), "wattle"), "network", "create", "--offline", folder, "--nodes", description])
    mesh = Mesh()
    for name, settings in plan.items():
        state = os.path.join(folder, name)
        if mtu:
            set_option(os.path.join(state, "wattled.toml"), "mtu", mtu)
        mesh.add(Agent(lab.hosts[name], state), settings["addresses"][0])
    return mesh


def set_option(path, key, value):
    lines = open(path).read().splitlines() if os.path.exists(path) else []
    lines = [line for line in lines if line.split("=")[0].strip() != key] + [f"{key} = {json.dumps(value)}"]
    with open(path, "w") as out:
        out.write("\n".join(lines) + "\n")
    os.chmod(path, 0o600)
