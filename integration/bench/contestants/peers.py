"""The programs that Wattle is measured against: as Debian ships them, or from the crate registry (see crates.py).

A contestant has

- `name`, and `kinds`: the beds it can stand on ("direct": two nodes, "relay": a chain of three);
- `missing()`: why it cannot run here, or None;
- `start(bed)`: starts its daemons with `bed.daemon(node, command)` and leaves the inner address `bed.inner[node]` reachable.

A bed has nodes in order, `bed.underlay(a, b)` = the address at which a dials b (None: no way), and `bed.mtu`, the inner MTU.
"""

import os
import shutil
import subprocess

import crates
from lab.net import LabError, run, wait_until

# Control sockets of WireGuard devices live there, for all namespaces together.
WIREGUARD_SOCKETS = "/var/run/wireguard"


class Contestant:
    name = ""
    kinds = ("direct", "relay")
    # Programs it needs on the PATH.
    programs = ()

    def missing(self):
        absent = [program for program in self.programs if not shutil.which(program)]
        return f"not installed: {' '.join(absent)}" if absent else None


def device(node):
    return f"t-{node}"


def set_up_device(bed, node, name=None, mtu=None):
    host, name = bed.hosts[node], name or device(node)
    host.wait_for_interface(name)
    host.address(name, f"{bed.inner[node]}/24")
    host.up(name, mtu or bed.mtu)


def forward_in_kernel(bed, node):
    bed.hosts[node].run(["sysctl", "-qw", "net.ipv4.ip_forward=1"])


class UserspaceWireguard(Contestant):
    """A program that makes a WireGuard device. Every node has every other as a peer; in a chain the middle's kernel forwards."""

    def command(self, interface):
        raise NotImplementedError

    def start(self, bed):
        keys = {}
        for node in bed.nodes:
            private = run(["wg", "genkey"]).stdout.strip()
            keys[node] = private, run(["wg", "pubkey"], input=private).stdout.strip()
        os.makedirs(WIREGUARD_SOCKETS, exist_ok=True)
        for node in bed.nodes:
            bed.daemon(node, self.command(self.device(bed, node)), env={"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"})
        for node in bed.nodes:
            name = self.device(bed, node)
            socket = f"{WIREGUARD_SOCKETS}/{name}.sock"
            wait_until(lambda path=socket: os.path.exists(path) or node in bed.ended(), 10, f"{socket} does not appear")
            path = os.path.join(bed.hosts[node].folder, "wg.conf")
            with open(path, "w") as out:
                out.write(self.config(bed, node, keys))
            bed.hosts[node].run(["wg", "setconf", name, path])
            set_up_device(bed, node, name)
            forward_in_kernel(bed, node)

    @staticmethod
    def device(bed, node):
        # The sockets share one folder, so names must differ across runs, too.
        return f"{bed.lab.prefix.split('-')[1]}-{node}"[:15]

    @staticmethod
    def config(bed, node, keys):
        lines = ["[Interface]", f"PrivateKey={keys[node][0]}", "ListenPort=51821"]
        near = bed.near(node)
        for other in near:
            beyond = [far for far in bed.nodes if far not in (node, other) and far not in near and len(near) == 1]
            allowed = ",".join(f"{bed.inner[name]}/32" for name in [other, *beyond])
            lines += ["[Peer]", f"PublicKey={keys[other][1]}", f"AllowedIPs={allowed}",
                      f"Endpoint={bed.underlay(node, other)}:51821"]
            if bed.keepalive:
                lines.append("PersistentKeepalive=25")
        return "\n".join(lines) + "\n"


class WireguardGo(UserspaceWireguard):
    name = "wireguard-go"
    programs = ("wireguard-go", "wg")

    def command(self, interface):
        return ["wireguard-go", "-f", interface]


class Boringtun(UserspaceWireguard):
    name = "boringtun"
    crate = "boringtun-cli"

    def missing(self):
        return crates.missing(self.crate)

    def command(self, interface):
        return [crates.program("boringtun-cli"), "--foreground", "--disable-drop-privileges", "--verbosity", "error", "--threads", "2", interface]


class Gotatun(UserspaceWireguard):
    name = "gotatun"
    crate = "gotatun-cli"

    def missing(self):
        return crates.missing(self.crate)

    def command(self, interface):
        return [crates.program("gotatun"), "--foreground", "--disable-drop-privileges", interface]


class Nebula(Contestant):
    """The first node with a way to every other is lighthouse and relay."""

    name = "nebula"
    programs = ("nebula", "nebula-cert")

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


class Tinc(Contestant):
    """Tinc 1.0 with Debian's defaults: Blowfish would be the protocol's, so a cipher of today is named."""

    name = "tinc"
    programs = ("tincd",)

    def start(self, bed):
        folders = {node: os.path.join(bed.hosts[node].folder, "tinc") for node in bed.nodes}
        described = {}
        for node, folder in folders.items():
            os.makedirs(os.path.join(folder, "hosts"))
            write(folder, "tinc.conf", [f"Name = {node}", f"Interface = {device(node)}", "Mode = router",
                                        "Device = /dev/net/tun", *(f"ConnectTo = {other}" for other in bed.near(node))])
            write(folder, "tinc-up", ["#!/bin/sh", f"ip addr add {bed.inner[node]}/24 dev $INTERFACE",
                                      f"ip link set $INTERFACE mtu {bed.mtu} up"], mode=0o755)
            write(folder, f"hosts/{node}", [f"Subnet = {bed.inner[node]}/32", "Port = 655", "PMTU = 1440",
                                              "Cipher = aes-256-cbc", "Digest = sha256"])
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


class Fastd(Contestant):
    """Two ends only: in its TUN mode a node does not forward for others."""

    name = "fastd"
    kinds = ("direct",)
    programs = ("fastd",)

    def start(self, bed):
        keys = {node: self.make_key() for node in bed.nodes}
        for node, other in zip(bed.nodes, reversed(bed.nodes)):
            folder = bed.hosts[node].folder
            write(folder, "fastd.conf", [
                "log level error;", f'interface "{device(node)}";', "mode tun;", 'method "salsa2012+umac";', f"mtu {bed.mtu};",
                "bind any:10000;", f'secret "{keys[node]["Secret"]}";',
                f'peer "{other}" {{ key "{keys[other]["Public"]}"; remote ipv4 "{bed.underlay(node, other)}" port 10000; }}'])
            bed.daemon(node, ["fastd", "-c", os.path.join(folder, "fastd.conf")])
        for node in bed.nodes:
            set_up_device(bed, node)

    @staticmethod
    def make_key():
        lines = run(["fastd", "--generate-key"]).stdout.splitlines()
        return dict(line.split(": ", 1) for line in lines if ": " in line)


class Vpncloud(Contestant):
    """Two ends only: a node does not forward for others. Its frames want 20 bytes more than others' at 1420."""

    name = "vpncloud"
    kinds = ("direct",)
    crate = "vpncloud"
    most_mtu = 1400

    def missing(self):
        return crates.missing(self.crate)

    def start(self, bed):
        for node in bed.nodes:
            near = bed.near(node)[0]
            # Without a default route it panics at start.
            bed.hosts[node].ip("route", "add", "default", "via", bed.underlay(node, near))
            bed.daemon(node, [crates.program("vpncloud"), "--quiet", "--type", "tun", "--mode", "router", "--device", device(node),
                              "--no-auto-claim", "--claim", f"{bed.inner[node]}/32", "--password", "measured", "--listen", "3210",
                              "--no-port-forwarding", "--peer", f"{bed.underlay(node, near)}:3210"])
        for node in bed.nodes:
            set_up_device(bed, node, mtu=min(bed.mtu, self.most_mtu))


class Frr(Contestant):
    """OSPF among routers on one LAN: what a routing daemon costs when nothing happens. No encryption."""

    name = "frr"
    programs = ("/usr/lib/frr/zebra", "/usr/lib/frr/ospfd")

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


# What Debian has, and what the crate registry has.
DEBIAN = (WireguardGo, Nebula, Tinc, Fastd)
FROM_CRATES = (Boringtun, Gotatun, Vpncloud)
