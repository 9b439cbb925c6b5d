"""Wattle as a contestant (see peers.py): with its defaults, or with one option that the bench wants to look at by itself."""

import json
import os

from lab import mesh as wattle_mesh
from lab.net import run
from peers import Contestant, device
from results import OURS

METRICS = "127.0.0.1:9464"


class Wattle(Contestant):
    name = OURS
    # Settings of every agent's wattled.toml beyond what the bed asks for.
    options = {}

    def missing(self):
        """Why this agent cannot do it: it is asked to check a configuration with just these options."""
        if not self.options:
            return None
        path = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"wattle-bench-{os.getpid()}.toml")
        with open(path, "w") as out:
            out.writelines(f"{key} = {json.dumps(value)}\n" for key, value in self.options.items())
        os.chmod(path, 0o600)
        try:
            answer = run([os.path.join(wattle_mesh.binaries(), "wattled"), "--check-config", "--config", path], check=False)
        finally:
            os.remove(path)
        words = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.options.items())
        return f"this agent does not take {words}" if answer.returncode else None

    def start(self, bed):
        plan = {}
        for node in bed.nodes:
            near = [other for other in bed.nodes if other != node and bed.underlay(other, node)]
            endpoints = sorted({f"{bed.underlay(other, node)}:51820" for other in near})
            plan[node] = {"addresses": [bed.inner[node]], "endpoints": endpoints, "interface": device(node)}
            if len(near) < len(bed.nodes) - 1:
                plan[node]["neighbours"] = near
        self.mesh = wattle_mesh.offline(bed.lab, plan, mtu=bed.mtu)
        for name, agent in self.mesh.agents.items():
            for key, value in {"metrics": METRICS, **self.options}.items():
                wattle_mesh.set_option(os.path.join(agent.state, "wattled.toml"), key, value)
            bed.processes.setdefault(name, []).append(agent.start().process)
        for node in bed.nodes:
            bed.hosts[node].wait_for_interface(device(node))


class WattleOverWireguard(Wattle):
    """Without the fast channel: what is sent is plain WireGuard data."""

    options = {"fast_channel": "off"}


class WattleOverQuic(Wattle):
    """Over the QUIC carrier: the links let no other UDP pass, so nothing else can be what is measured."""

    options = {"quic_port": 443}

    def start(self, bed):
        for link in bed.lab.links.values():
            link.only_udp(self.options["quic_port"])
        super().start(bed)
