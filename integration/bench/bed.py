"""Hosts with an underlay between them, and one contestant on it; what its processes cost."""

import os

from lab.net import Lab, wait_until
from results import say


class Bed:
    """Nodes in order; `chain` or `on_lan` joins them, `start` puts a contestant on them."""

    def __init__(self, nodes, mtu, keepalive=False):
        self.lab, self.nodes, self.mtu, self.keepalive = Lab(), nodes, mtu, keepalive
        self.hosts = {node: self.lab.host(node) for node in nodes}
        self.inner = {node: f"10.200.0.{number}" for number, node in enumerate(nodes, 1)}
        self.dial = {}
        self.processes = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        left = self.lab.close()
        if left:
            say(f"left behind: {left}")

    @property
    def first(self):
        return self.hosts[self.nodes[0]]

    @property
    def last(self):
        return self.hosts[self.nodes[-1]]

    @property
    def target(self):
        """The inner address of the last node."""
        return self.inner[self.nodes[-1]]

    def chain(self):
        for number, (a, b) in enumerate(zip(self.nodes, self.nodes[1:]), 1):
            self.lab.link(self.hosts[a], self.hosts[b], f"10.99.{number}")
            self.dial[a, b], self.dial[b, a] = f"10.99.{number}.2", f"10.99.{number}.1"
        return self

    def on_lan(self):
        self.lab.lan(list(self.hosts.values()), "10.99.0")
        for number, b in enumerate(self.nodes, 1):
            self.dial.update({(a, b): f"10.99.0.{number}" for a in self.nodes if a != b})
        return self

    def underlay(self, a, b):
        """The address at which a dials b; None where there is no way."""
        return self.dial.get((a, b))

    def near(self, node):
        return [other for other in self.nodes if other != node and self.underlay(node, other)]

    def daemon(self, node, command, **more):
        log = os.path.join(self.hosts[node].folder, "daemon.log")
        self.processes.setdefault(node, []).append(self.hosts[node].spawn(command, log=log, **more))

    def start(self, contestant, seconds=30):
        contestant.start(self)
        wait_until(lambda: self.target in self.first.reaches([self.target]), seconds,
                   f"{contestant.name}: no packet from end to end", step=0.2)
        return self

    def all_reach(self, seconds=90):
        missing = set(self.nodes)

        def whole():
            for node in sorted(missing):
                others = [address for other, address in self.inner.items() if other != node]
                if len(self.hosts[node].reaches(others, 1000)) == len(others):
                    missing.discard(node)
            return not missing

        wait_until(whole, seconds, f"no full reachability from {sorted(missing)}", step=0.5)

    def ended(self):
        return [node for node, processes in self.processes.items() if any(process.poll() is not None for process in processes)]

    def tail_of_logs(self, lines=8):
        """The last lines that each node's daemons wrote."""
        told = []
        for node, host in self.hosts.items():
            for name in ("daemon.log", "wattled.log"):
                path = os.path.join(host.folder, name)
                if os.path.exists(path):
                    with open(path, errors="replace") as log:
                        told += [f"    {node}: {line.rstrip()}" for line in log.readlines()[-lines:]]
        return "\n".join(told)

    def cpu_seconds(self, node=None):
        nodes = [node] if node else self.processes
        return sum(cpu_seconds(process.pid) for name in nodes for process in self.processes.get(name, []))

    def resident_mib(self, node=None):
        nodes = [node] if node else self.processes
        return sum(resident_mib(process.pid) for name in nodes for process in self.processes.get(name, []))

    def largest_resident_mib(self):
        """Memory of the node that has most; None where no process carries the packets."""
        return max((self.resident_mib(node) for node in self.processes), default=None)


def cpu_seconds(pid):
    """Nanoseconds on a CPU of all threads: ticks of 10 ms would hide what an idle process does."""
    total = 0
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return 0.0
    for task in tasks:
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat") as stat:
                total += int(stat.read().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass
    return total / 1e9


def resident_mib(pid):
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS")), 0.0)
    except FileNotFoundError:
        return 0.0

