"""The routing daemons that Wattle's healing is measured against, as Debian ships them: with defaults, and tuned to their limit.

A contestant has `name`, `missing()`, and `start(ring)`: it makes 10.255.0.N of every node reachable from every other. A ring
has `hosts` by name in order, `address(name)`, and `interfaces(name)`: pairs of interface and neighbour.
"""

import os
import shutil

from lab import mesh as wattle_mesh
from lab.net import wait_until
from results import OURS

FRR = "/usr/lib/frr"


class Contestant:
    programs = ()
    # Seconds that it needs to come to rest after a change, and that a fault may last at most before it is given up.
    settle, patience = 4, 60
    # After so many faults a fresh network is made.
    faults_per_ring = 1000
    # Whether the wire r1-r2 costs more, so that the way over r5 is feasible in RFC 8966's sense.
    wire_is_dearer = False

    def missing(self):
        absent = [program for program in self.programs if not shutil.which(program)]
        return f"not installed: {' '.join(absent)}" if absent else None

    def event_count(self, ring):
        """How many adjacencies were lost so far, by the daemons' own account; None if they keep none."""
        return None


class Wattle(Contestant):
    name = OURS
    settle, patience = 3, 30
    faults_per_ring = 2

    def start(self, ring):
        plan = {}
        for name in ring.hosts:
            near = [other for _, other in ring.interfaces(name)]
            dial = [f"{ring.lab.between(name, other).address_of(name)}:51820" for other in near]
            plan[name] = {"addresses": [ring.address(name)], "neighbours": near, "endpoints": dial}
        self.mesh = wattle_mesh.offline(ring.lab, plan)
        for name, agent in self.mesh.agents.items():
            ring.processes[name] = [agent.start().process.pid]

    def event_count(self, ring):
        return sum(agent.wattle("events").stdout.count(" is down") for agent in self.mesh.agents.values())


class Router(Contestant):
    """A daemon that puts routes into the kernel, which forwards."""

    def start(self, ring):
        # Some daemons become another user and must reach their folder.
        os.chmod(ring.lab.folder, 0o711)
        for number, (name, host) in enumerate(ring.hosts.items(), 1):
            host.run(["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0",
                      "net.ipv4.fib_multipath_hash_policy=1"])
            for interface, _ in ring.interfaces(name):
                host.run(["sysctl", "-qw", f"net.ipv4.conf.{interface}.rp_filter=0"])
            host.address("lo", f"{ring.address(name)}/32")
            folder = os.path.join(host.folder, "router")
            os.makedirs(folder)
            os.chmod(folder, 0o777)
            self.start_on(ring, name, number, folder)

    def daemon(self, ring, name, command):
        host = ring.hosts[name]
        process = host.spawn(command, log=os.path.join(host.folder, "daemon.log"))
        ring.processes.setdefault(name, []).append(process.pid)


class Babel(Router):
    programs = ("babeld",)
    kind, options, priced = "wired", "", False

    def start_on(self, ring, name, number, folder):
        lines = [f"local-path {folder}/babel.sock", "skip-kernel-setup true"]
        lines += [f"default {self.options}"] if self.options else []
        for interface, other in ring.interfaces(name):
            price = " rxcost 150" if self.wire_is_dearer and {name, other} == {"r1", "r2"} else ""
            lines.append(f"interface {interface} type {self.kind}{price}")
        lines += [f"redistribute local ip {ring.address(name)}/32 allow", "redistribute local deny"]
        write(folder, "babel.conf", lines)
        interfaces = [interface for interface, _ in ring.interfaces(name)]
        self.daemon(ring, name, ["babeld", "-I", f"{folder}/babel.pid", "-S", f"{folder}/state", "-c", f"{folder}/babel.conf", *interfaces])


class BabelDefault(Babel):
    name = "babeld"


class BabelFast(Babel):
    name = "babeld tuned"
    options = "hello-interval 0.05 update-interval 0.2"


class BabelRtt(Babel):
    """By round trips and loss, with fast hellos."""

    name = "babeld rtt"
    kind = "tunnel"
    options = "hello-interval 0.1 update-interval 0.4 link-quality true rtt-max 40 max-rtt-penalty 300 rtt-decay 64"


class Bird(Router):
    programs = ("bird",)
    patience = 60
    interface, bfd, tick = "", "", ""

    def start_on(self, ring, name, number, folder):
        lines = [f"log \"{folder}/bird.log\" all;", f"router id {ring.address(name)};", "protocol device { scan time 10; }",
                 "protocol kernel { ipv4 { export all; import none; }; merge paths on; }"]
        lines += [f'protocol bfd {{ interface "to-*" {{ {self.bfd} }}; }}'] if self.bfd else []
        lines += [f"protocol ospf v2 o1 {{ ipv4 {{ import all; export none; }}; ecmp on; {self.tick} area 0 {{",
                  ' interface "lo" { stub yes; };', f' interface "to-*" {{ type ptp; cost 10; {self.interface} }};', "}; }"]
        write(folder, "bird.conf", lines)
        self.daemon(ring, name, ["bird", "-f", "-c", f"{folder}/bird.conf", "-s", f"{folder}/bird.ctl", "-P", f"{folder}/bird.pid"])

    def event_count(self, ring):
        return logged(ring, "bird.log", " to Down")


class BirdDefault(Bird):
    name = "bird ospf"


class BirdBfd(Bird):
    name = "bird ospf+bfd tuned"
    bfd = "interval 10 ms; multiplier 3;"
    interface = "bfd on; hello 1; dead count 4; retransmit 2;"
    tick = "tick 1;"


class Frr(Router):
    programs = (f"{FRR}/zebra", f"{FRR}/ospfd", f"{FRR}/bfdd")
    bfd, interface, router = (), (), ()

    def start_on(self, ring, name, number, folder):
        shutil.chown(folder, "frr", "frr")
        common = ["-z", f"{folder}/zserv", "--vty_socket", folder, "-P", "0"]
        base = [f"hostname {name}", f"log file {folder}/frr.log notifications"]
        write(folder, "zebra.conf", base)
        self.daemon(ring, name, [f"{FRR}/zebra", *common, "-f", f"{folder}/zebra.conf", "-i", f"{folder}/z.pid"])
        wait_until(lambda: os.path.exists(f"{folder}/zserv"), 10, "zebra does not come up")
        if self.bfd:
            write(folder, "bfdd.conf", [*base, "bfd", " profile p", *[f"  {line}" for line in self.bfd], " !", "!"])
            self.daemon(ring, name, [f"{FRR}/bfdd", *common, "-f", f"{folder}/bfdd.conf", "-i", f"{folder}/b.pid",
                                     "--bfdctl", f"{folder}/bfdd.sock"])
            wait_until(lambda: os.path.exists(f"{folder}/bfdd.vty"), 10, "bfdd does not come up")
        lines = list(base)
        for interface, _ in ring.interfaces(name):
            lines += [f"interface {interface}", " ip ospf area 0", " ip ospf cost 10", " ip ospf network point-to-point",
                      *[f" {line}" for line in self.interface], "!"]
        lines += ["interface lo", " ip ospf area 0", "!", "router ospf", f" ospf router-id {ring.address(name)}",
                  *[f" {line}" for line in self.router], "!"]
        write(folder, "ospfd.conf", lines)
        self.daemon(ring, name, [f"{FRR}/ospfd", *common, "-f", f"{folder}/ospfd.conf", "-i", f"{folder}/o.pid"])

    def event_count(self, ring):
        return logged(ring, "frr.log", "-> Down") + logged(ring, "frr.log", "to Down") + logged(ring, "frr.log", "Full -> Deleted")


class FrrDefault(Frr):
    name = "frr ospf"


class FrrBfd(Frr):
    """The shortest interval that FRR takes, without a delay before shortest paths."""

    name = "frr ospf+bfd tuned"
    bfd = ("detect-multiplier 3", "receive-interval 10", "transmit-interval 10")
    interface = ("ip ospf bfd", "ip ospf bfd profile p", "ip ospf hello-interval 1", "ip ospf dead-interval 4")
    router = ("timers throttle spf 0 10 100", "timers throttle lsa all 0", "timers lsa min-arrival 0", "log-adjacency-changes detail")


def logged(ring, file, words):
    count = 0
    for host in ring.hosts.values():
        path = os.path.join(host.folder, "router", file)
        if os.path.exists(path):
            with open(path, errors="replace") as log:
                count += log.read().count(words)
    return count


def write(folder, name, lines):
    path = os.path.join(folder, name)
    with open(path, "w") as out:
        out.write("\n".join(lines) + "\n")
    os.chmod(path, 0o644)


ALL = (Wattle, FrrBfd, BirdBfd, BabelFast, BabelRtt, FrrDefault, BirdDefault, BabelDefault)
