"""Hosts and links in network namespaces, with everything removed again however the run ends.

Names begin with `wl-<pid>-`, so two runs do not meet. Knows nothing of Wattle: see mesh.py for agents.
"""

import atexit
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from . import wire

HERE = os.path.dirname(os.path.abspath(__file__))


class LabError(Exception):
    """Says what was attempted and what the command answered."""


def run(command, check=True, timeout=60, **more):
    done = subprocess.run(command, stdin=subprocess.DEVNULL if "input" not in more else None, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, timeout=timeout, **more)
    if check and done.returncode:
        raise LabError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-600:]}")
    return done


class Lab:
    """Owns namespaces, processes and a scratch folder; `close` removes them and returns what it could not remove."""

    def __init__(self, keep=False):
        self.prefix = f"wl-{os.getpid()}-"
        self.folder = tempfile.mkdtemp(prefix=self.prefix)
        self.keep = keep
        self.hosts = {}
        self.links = {}
        self.processes = []
        self.closed = False
        # A signal becomes an exception, so that `with` and `finally` run; atexit is the last resort.
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        atexit.register(self.close)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def host(self, name):
        host = Host(self, name)
        self.hosts[name] = host
        return host

    def link(self, a, b, subnet, mtu=1500, offload=True):
        """Joins two hosts by a veth; `subnet` is like 10.1.4 and gives .1 to a, .2 to b."""
        link = Link(self, a, b, subnet, mtu, offload)
        self.links[frozenset((a.name, b.name))] = link
        return link

    def wire(self, a, b, subnet):
        """The same over a userspace wire, whose `delay` can be changed."""
        link = Wire(self, a, b, subnet)
        self.links[frozenset((a.name, b.name))] = link
        return link

    def lan(self, hosts, subnet, mtu=1500):
        """Joins hosts by one bridge; the first gets `subnet`.1 and so on. Each has the interface `lan`."""
        bridge = self.host("lan")
        bridge.ip("link", "add", "br0", "type", "bridge")
        bridge.up("br0")
        for number, host in enumerate(hosts, 1):
            run(["ip", "link", "add", "lan", "mtu", str(mtu), "netns", host.namespace, "type", "veth",
                 "peer", "name", f"p{number}", "mtu", str(mtu), "netns", bridge.namespace])
            bridge.ip("link", "set", f"p{number}", "master", "br0", "up")
            host.address("lan", f"{subnet}.{number}/24")
            host.up("lan")

    def spawn(self, command):
        """Starts a process outside of all hosts, to be ended with the lab."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.processes.append(process)
        return process

    def between(self, a, b):
        return self.links[frozenset((a, b))]

    def close(self):
        """Ends processes (asked first, then killed), removes namespaces and the folder, lists what is left."""
        if self.closed:
            return []
        self.closed = True
        for kill in (False, True):
            for process in self.processes:
                if process.poll() is None:
                    process.kill() if kill else process.terminate()
            deadline = time.monotonic() + 5
            for process in self.processes:
                try:
                    process.wait(max(0.05, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    pass
        for host in self.hosts.values():
            for pid in host.pids():
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            run(["ip", "netns", "del", host.namespace], check=False)
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
        return self.leftovers()

    def leftovers(self):
        left = [f"namespace {line.split()[0]}" for line in run(["ip", "netns", "list"], check=False).stdout.splitlines()
                if line.startswith(self.prefix)]
        left += [f"process {process.pid}" for process in self.processes if process.poll() is None]
        left += [f"interface {link['ifname']}" for link in json.loads(run(["ip", "-j", "link"]).stdout)
                 if link["ifname"].startswith(self.prefix)]
        if not self.keep and os.path.exists(self.folder):
            left.append(f"folder {self.folder}")
        return left


class Host:
    """One namespace."""

    def __init__(self, lab, name):
        self.lab, self.name, self.namespace = lab, name, lab.prefix + name
        self.folder = os.path.join(lab.folder, name)
        os.makedirs(self.folder)
        run(["ip", "netns", "add", self.namespace])
        self.ip("link", "set", "lo", "up")
        # A duplicate-address check would keep IPv6 addresses unusable for a second. 0: groups whose members may ping.
        self.run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0", "net.ipv4.ip_forward=0",
                  "net.ipv4.ping_group_range=0 2147483647"], check=False)

    def ip(self, *words):
        return run(["ip", "-n", self.namespace, *words])

    def run(self, command, **more):
        return run(["ip", "netns", "exec", self.namespace, *command], **more)

    def spawn(self, command, log=None, env=None, **more):
        """Starts a process; `ip netns exec` becomes it, so its pid is the process's own."""
        out = open(log, "ab") if log else subprocess.DEVNULL
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace, *command], stdin=subprocess.DEVNULL,
                                   stdout=more.pop("stdout", out), stderr=subprocess.STDOUT if log else subprocess.DEVNULL,
                                   env={**os.environ, **(env or {})}, **more)
        self.lab.processes.append(process)
        if log:
            out.close()
        return process

    def pids(self):
        answer = run(["ip", "netns", "pids", self.namespace], check=False)
        return [int(pid) for pid in answer.stdout.split()]

    def address(self, interface, address):
        self.ip("addr", "add", address, "dev", interface)

    def up(self, interface, mtu=None):
        self.ip("link", "set", interface, *(["mtu", str(mtu)] if mtu else []), "up")

    def wait_for_interface(self, interface, seconds=10):
        wait_until(lambda: run(["ip", "-n", self.namespace, "link", "show", interface], check=False).returncode == 0,
                   seconds, f"{self.name}: no interface {interface}")

    def bytes_sent(self):
        return self._sent("bytes")

    def packets_sent(self):
        return self._sent("packets")

    def _sent(self, what):
        links = json.loads(self.ip("-s", "-j", "link").stdout)
        return {link["ifname"]: link["stats64"]["tx"][what] for link in links}

    def reaches(self, addresses, timeout_ms=500, source=None):
        """Tells which addresses answer a ping, one from the address `source` if it is given."""
        origin = ["-S", source] if source else []
        answer = self.run(["fping", "-r0", f"-t{timeout_ms}", "-i2", "-a", *origin, *addresses], check=False)
        return set(answer.stdout.split())


class Link:
    """A veth between two hosts, which can go silent or lossy: carrier stays up, packets vanish."""

    def __init__(self, lab, a, b, subnet, mtu, offload):
        self.ends = ((a, f"to-{b.name}", f"{subnet}.1"), (b, f"to-{a.name}", f"{subnet}.2"))
        (_, left, _), (_, right, _) = self.ends
        run(["ip", "link", "add", left, "mtu", str(mtu), "netns", a.namespace, "type", "veth",
             "peer", "name", right, "mtu", str(mtu), "netns", b.namespace])
        for host, interface, address in self.ends:
            if not offload:
                host.run(["ethtool", "-K", interface, "tso", "off", "gso", "off", "tx-udp-segmentation", "off"], check=False)
            host.address(interface, f"{address}/24")
            host.up(interface)

    def address_of(self, name):
        return next(address for host, _, address in self.ends if host.name == name)

    def cut(self):
        cut_at_once([self])

    def lose(self, percent):
        self._rule(f"numgen random mod 1000 < {int(percent * 10)} drop")

    def only_udp(self, port):
        """Lets no UDP pass but from and to one port, as some networks do."""
        self._rule(f"meta l4proto udp udp sport != {port} udp dport != {port} drop")

    def restore(self):
        for host, _, _ in self.ends:
            host.run(["nft", "delete", "table", "netdev", "lab"], check=False)

    def _rule(self, rule):
        for host, interface, _ in self.ends:
            host.run(["nft", "-f", "-"], input=egress(interface, rule))


def egress(interface, rule):
    return (f"table netdev lab {{ chain {interface} {{ type filter hook egress device \"{interface}\" "
            f"priority 0; policy accept; {rule}; }}; }}\n")


def cut_at_once(links):
    """Makes several links silent in the same few milliseconds: one after the other, the first would be noticed before the last is cut."""
    hosts = {}
    for link in links:
        for host, interface, _ in link.ends:
            hosts.setdefault(host.namespace, []).append(egress(interface, "drop"))
    waiting = [(subprocess.Popen(["ip", "netns", "exec", namespace, "nft", "-f", "-"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True), "".join(rules))
               for namespace, rules in hosts.items()]
    time.sleep(0.1)  # until all of them wait for their rules
    for process, rules in waiting:
        process.stdin.write(rules)
        process.stdin.close()
    for process, _ in waiting:
        complaint = process.stderr.read()
        process.stderr.close()
        if process.wait():
            raise LabError(f"nft: {complaint.strip()}")


class Wire(Link):
    """A link through a third namespace, in which a process carries the frames (see wire.py)."""

    def __init__(self, lab, a, b, subnet):
        self.ends = ((a, f"to-{b.name}", f"{subnet}.1"), (b, f"to-{a.name}", f"{subnet}.2"))
        between = lab.host(f"w{len(lab.hosts)}")
        between.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=False)
        for (host, interface, address), name in zip(self.ends, ("left", "right")):
            run(["ip", "link", "add", interface, "netns", host.namespace, "type", "veth", "peer", "name", name, "netns", between.namespace])
            # Frames pass as they are on a wire: no larger, and with their checksums.
            for namespace, device in ((host.namespace, interface), (between.namespace, name)):
                run(["ip", "netns", "exec", namespace, "ethtool", "-K", device, "tx", "off", "tso", "off", "gso", "off", "gro", "off"], check=False)
            host.address(interface, f"{address}/24")
            host.up(interface)
            between.up(name)
        self.control = os.path.join(between.folder, "control")
        between.spawn([sys.executable, os.path.join(HERE, "wire.py"), "left", "right", self.control])
        wait_until(lambda: os.path.exists(self.control), 10, "the wire does not start")

    def delay(self, micros):
        """Every frame takes so long, either way."""
        wire.delay(self.control, micros)


def wait_until(condition, seconds, complaint, step=0.05):
    """Polls `condition` and returns its first true answer."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise LabError(f"{complaint} (waited {seconds:g} s)")
        time.sleep(step)
