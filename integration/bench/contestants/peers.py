"""The programs that Wattle is measured against, as Debian ships them, and the shuttle that is the limit.

A contestant has `name` and `start(bed)`: it starts its daemons with `bed.daemon(node, command)` and leaves the inner address
`bed.inner[node]` reachable. A bed has nodes in order, `bed.underlay(a, b)` = the address at which a dials b (None: no way),
and `bed.mtu`, the inner MTU to use.
"""

import os
import shutil
import subprocess

from lab import mesh as wattle_mesh
from lab.net import LabError, run, wait_until


def device(node):
    return f"t-{node}"


def set_up_device(bed, node):
    host = bed.hosts[node]
    host.wait_for_interface(device(node))
    host.address(device(node), f"{bed.inner[node]}/24")
    host.up(device(node), bed.mtu)


class Shuttle:
    """TUN to UDP with all offloads, no cryptography: what a pair of nodes could reach at most."""

    name = "limit"

    def start(self, bed):
        program = os.path.join(wattle_mesh.binaries(), "wattle-shuttle")
        a, b = bed.nodes
        for me, other in ((a, b), (b, a)):
            bed.daemon(me, [program, device(me), f"{bed.underlay(other, me)}:5555", f"{bed.underlay(me, other)}:5555"])
            set_up_device(bed, me)


class Wattle:
    name = "wattle"

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
            bed.processes.setdefault(name, []).append(agent.start().process)
        for node in bed.nodes:
            bed.hosts[node].wait_for_interface(device(node))


class WireguardGo:
    """Every node has every other as a peer; in a chain the middle's kernel forwards."""

    name = "wireguard-go"

    def start(self, bed):
        keys = {}
        for node in bed.nodes:
            private = run(["wg", "genkey"]).stdout.strip()
            keys[node] = private, run(["wg", "pubkey"], input=private).stdout.strip()
        for node in bed.nodes:
            # Control sockets share one folder on the file system, so names must differ across runs, too.
            bed.hosts[node].run(["mkdir", "-p", "/var/run/wireguard"])
            bed.daemon(node, ["wireguard-go", "-f", self.device(bed, node)], env={"WG_PROCESS_FOREGROUND": "1"})
        for node in bed.nodes:
            socket = f"/var/run/wireguard/{self.device(bed, node)}.sock"
            wait_until(lambda path=socket: os.path.exists(path), 10, f"{socket} does not appear")
            path = os.path.join(bed.hosts[node].folder, "wg.conf")
            with open(path, "w") as out:
                out.write(self.config(bed, node, keys))
            bed.hosts[node].run(["wg", "setconf", self.device(bed, node), path])
            bed.hosts[node].address(self.device(bed, node), f"{bed.inner[node]}/24")
            bed.hosts[node].up(self.device(bed, node), bed.mtu)
            bed.hosts[node].run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])

    @staticmethod
    def device(bed, node):
        return f"{bed.lab.prefix.split('-')[1]}-{node}"[:15]

    def config(self, bed, node, keys):
        lines = ["[Interface]", f"PrivateKey={keys[node][0]}", "ListenPort=51821"]
        near = [other for other in bed.nodes if other != node and bed.underlay(node, other)]
        for other in near:
            beyond = [far for far in bed.nodes if far not in (node, other) and far not in near and len(near) == 1]
            allowed = ",".join(f"{bed.inner[name]}/32" for name in [other, *beyond])
            lines += ["[Peer]", f"PublicKey={keys[other][1]}", f"AllowedIPs={allowed}",
                      f"Endpoint={bed.underlay(node, other)}:51821"]
            if bed.keepalive:
                lines.append("PersistentKeepalive=25")
        return "\n".join(lines) + "\n"


class Nebula:
    """The first node with a way to every other is lighthouse and relay."""

    name = "nebula"

    def start(self, bed):
        folder = os.path.join(bed.lab.folder, "nebula")
        os.makedirs(folder)
        run(["nebula-cert", "ca", "-name", "bench"], cwd=folder)
        hub = next(node for node in bed.nodes if all(other == node or bed.underlay(other, node) for other in bed.nodes))
        for node in bed.nodes:
            run(["nebula-cert", "sign", "-name", node, "-ip", f"{bed.inner[node]}/24"], cwd=folder)
            path = os.path.join(folder, f"{node}.yml")
            with open(path, "w") as out:
                out.write(self.config(bed, folder, node, hub))
            bed.daemon(node, ["nebula", "-config", path])
        for node in bed.nodes:
            bed.hosts[node].wait_for_interface(device(node))

    @staticmethod
    def config(bed, folder, node, hub):
        is_hub = node == hub
        chain = any(not bed.underlay(a, b) for a in bed.nodes for b in bed.nodes if a != b)
        relay = "{}" if not chain else "{am_relay: true, use_relays: true}" if is_hub else (
            f'{{relays: ["{bed.inner[hub]}"], use_relays: true}}')
        known = "{}" if is_hub else f'{{"{bed.inner[hub]}": ["{bed.underlay(node, hub)}:4242"]}}'
        hosts = "[]" if is_hub else f'["{bed.inner[hub]}"]'
        return f"""pki: {{ca: {folder}/ca.crt, cert: {folder}/{node}.crt, key: {folder}/{node}.key}}
static_host_map: {known}
lighthouse: {{am_lighthouse: {str(is_hub).lower()}, interval: 10, hosts: {hosts}}}
relay: {relay}
listen: {{host: 0.0.0.0, port: 4242, read_buffer: 8388608, write_buffer: 8388608}}
punchy: {{punch: true}}
tun: {{dev: {device(node)}, mtu: {bed.mtu}, tx_queue: 500}}
logging: {{level: error, format: text}}
firewall: {{outbound: [{{port: any, proto: any, host: any}}], inbound: [{{port: any, proto: any, host: any}}]}}
"""


class Tinc:
    name = "tinc"

    def start(self, bed):
        folders = {node: os.path.join(bed.hosts[node].folder, "tinc") for node in bed.nodes}
        described = {}
        for node, folder in folders.items():
            os.makedirs(os.path.join(folder, "hosts"))
            near = [other for other in bed.nodes if other != node and bed.underlay(node, other)]
            write(folder, "tinc.conf", [f"Name = {node}", f"Interface = {device(node)}", "Mode = router",
                                        "Device = /dev/net/tun", *(f"ConnectTo = {other}" for other in near)])
            write(folder, "tinc-up", ["#!/bin/sh", f"ip addr add {bed.inner[node]}/24 dev $INTERFACE",
                                      f"ip link set $INTERFACE mtu {bed.mtu} up"], mode=0o755)
            write(folder, f"hosts/{node}", [f"Subnet = {bed.inner[node]}/32", "Port = 655", "PMTU = 1440"])
            subprocess.run(["tincd", "-c", folder, "-K2048"], stdin=subprocess.DEVNULL, capture_output=True, check=True)
            described[node] = open(os.path.join(folder, "hosts", node)).read()
        for node, folder in folders.items():
            for other, text in described.items():
                address = bed.underlay(node, other) if other != node else None
                write(folder, f"hosts/{other}", ([f"Address = {address}"] if address else []) + [text])
        for node, folder in folders.items():
            bed.daemon(node, ["tincd", "-c", folder, "-D", f"--pidfile={folder}/pid"])
        for node in bed.nodes:
            bed.hosts[node].wait_for_interface(device(node))


class Frr:
    """OSPF among routers on one LAN: what a routing daemon costs when nothing happens. No encryption."""

    name = "frr"

    def start(self, bed):
        for node in bed.nodes:
            folder = os.path.join(bed.hosts[node].folder, "frr")
            os.makedirs(folder)
            bed.hosts[node].address("lo", f"{bed.inner[node]}/32")
            write(folder, "zebra.conf", [f"hostname {node}"])
            write(folder, "ospfd.conf", ["router ospf", f" ospf router-id {bed.inner[node]}",
                                         " network 0.0.0.0/0 area 0"])
            # The daemons become the user frr and must reach their folder.
            os.chmod(bed.lab.folder, 0o711)
            shutil.chown(folder, "frr", "frr")
            common = ["-z", f"{folder}/zserv", "--vty_socket", folder]
            bed.daemon(node, ["/usr/lib/frr/zebra", *common, "-f", f"{folder}/zebra.conf", "-i", f"{folder}/z.pid", "-P", "0"])
            wait_until(lambda path=folder: os.path.exists(f"{path}/zserv"), 10, "zebra does not come up")
            bed.daemon(node, ["/usr/lib/frr/ospfd", *common, "-f", f"{folder}/ospfd.conf", "-i", f"{folder}/o.pid", "-P", "0"])


def write(folder, name, lines, mode=0o644):
    path = os.path.join(folder, name)
    with open(path, "w") as out:
        out.write("\n".join(lines) + "\n")
    os.chmod(path, mode)


def require(programs):
    missing = [program for program in programs if run(["sh", "-c", f"command -v {program}"], check=False).returncode]
    if missing:
        raise LabError(f"not installed: {' '.join(missing)}; tools/bench installs them from Debian")
