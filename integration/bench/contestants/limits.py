"""What the machine itself can carry: bare links, and the shuttle without and with a cipher. Contestants as in peers.py."""

import os

from lab import mesh as wattle_mesh
from peers import Contestant, device, forward_in_kernel, set_up_device

PORT = 5555


class RawVeth(Contestant):
    """No tunnel: the inner addresses lie on the links themselves, and the middle's kernel forwards."""

    name = "raw-veth"

    def start(self, bed):
        for node in bed.nodes:
            bed.hosts[node].address("lo", f"{bed.inner[node]}/32")
            forward_in_kernel(bed, node)
        for number, node in enumerate(bed.nodes):
            for far_number, far in enumerate(bed.nodes):
                if node != far:
                    next_hop = bed.nodes[number + (1 if far_number > number else -1)]
                    bed.hosts[node].ip("route", "add", f"{bed.inner[far]}/32", "via", bed.underlay(node, next_hop),
                                       "mtu", str(bed.mtu), "src", bed.inner[node])


class Shuttle(Contestant):
    """TUN to UDP with all offloads, no cryptography. In a chain the middle sends each batch on as it came."""

    name = "shuttle"
    cipher = "none"

    def start(self, bed):
        program = os.path.join(wattle_mesh.binaries(), "wattle-shuttle")
        for node in bed.nodes:
            ways = [way for near in bed.near(node) for way in self.way(bed, node, near)]
            if len(bed.near(node)) == 2:
                bed.daemon(node, [program, "relay", *ways])
            else:
                bed.daemon(node, [program, device(node), *ways, self.cipher])
                set_up_device(bed, node)

    @staticmethod
    def way(bed, node, near):
        return f"{bed.underlay(near, node)}:{PORT}", f"{bed.underlay(node, near)}:{PORT}"


class ShuttleChaCha(Shuttle):
    name = "shuttle-chacha"
    cipher = "chacha20-poly1305"


class ShuttleAes(Shuttle):
    name = "shuttle-aes"
    cipher = "aes-256-gcm"


ALL = (RawVeth, Shuttle, ShuttleChaCha, ShuttleAes)
