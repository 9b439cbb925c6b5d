"""A stream of numbered probes every 10 ms, and what its gaps say about an outage.

    probe.py reflect ADDRESS PORT            answers every datagram with itself
    probe.py send SOURCE ADDRESS PORT FILE [STEP_US]
                                             one probe each 10 ms; writes `S seq ns` and `R seq ns rtt_us ttl_there ttl_back`

As a module: `Stream` runs both in two hosts and reads the file. Clocks are CLOCK_MONOTONIC, which all namespaces share.
"""

import os
import select
import socket
import struct
import sys
import time

STEP_NS = 10_000_000
PORT = 7000


# <linux/in.h>, <linux/in6.h>
TTL_OPTIONS = {socket.AF_INET: (socket.IPPROTO_IP, 12, 2), socket.AF_INET6: (socket.IPPROTO_IPV6, 51, 52)}


def bound(address, port):
    """A socket that tells with which TTL its datagrams came."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, port))
    level, option, _ = TTL_OPTIONS[sock.family]
    sock.setsockopt(level, option, 1)
    return sock


def take(sock):
    """A datagram, the TTL it came with, its sender."""
    data, extra, _, sender = sock.recvmsg(2048, socket.CMSG_SPACE(4))
    level, _, kind = TTL_OPTIONS[sock.family]
    ttl = next((struct.unpack("=i", value[:4])[0] for at, what, value in extra if (at, what) == (level, kind)), 0)
    return data, ttl, sender


def reflect(address, port):
    sock = bound(address, port)
    while True:
        data, ttl, sender = take(sock)
        try:
            sock.sendto(data[:16] + struct.pack("!B", ttl) + data[17:], sender)
        except OSError:
            pass  # no way back at this moment: that is what is being measured


def send(source, address, port, path, step_ns=STEP_NS):
    sock = bound(source, 0)
    sock.setblocking(False)
    with open(path, "w", buffering=1) as out:
        number, due = 0, time.monotonic_ns()
        while True:
            now = time.monotonic_ns()
            if now >= due:
                try:
                    sock.sendto(struct.pack("!QQ", number, now) + bytes(40), (address, port))
                except OSError:
                    pass  # counts as lost
                out.write(f"S {number} {now}\n")
                number += 1
                due = max(due + step_ns, now)
                continue
            if select.select([sock], [], [], (due - now) / 1e9)[0]:
                receive(sock, out)


def receive(sock, out):
    while True:
        try:
            data, ttl, _ = take(sock)
        except BlockingIOError:
            return
        except OSError:
            continue  # an ICMP error of an earlier probe
        if len(data) >= 17:
            number, sent = struct.unpack("!QQ", data[:16])
            out.write(f"R {number} {sent} {(time.monotonic_ns() - sent) // 1000} {data[16]} {ttl}\n")


class Stream:
    """Probes from one host to another, while something is done to the network between them."""

    def __init__(self, source, source_address, target, target_address, port=PORT, step_ns=STEP_NS):
        me = os.path.abspath(__file__)
        self.path = os.path.join(source.folder, f"probe-{target.name}-{time.monotonic_ns()}")
        self.reflector = target.spawn([sys.executable, me, "reflect", target_address, str(port)])
        self.sender = source.spawn([sys.executable, me, "send", source_address, target_address, str(port), self.path, str(step_ns // 1000)])

    def stop(self):
        for process in (self.sender, self.reflector):
            process.kill()
            process.wait()

    def read(self):
        """Returns send time by number, and the numbers that were answered with their round trip."""
        sent, answered = {}, {}
        for kind, number, *more in self.records():
            if kind == "S":
                sent[int(number)] = int(more[0])
            elif kind == "R":
                answered[int(number)] = int(more[1])
        return sent, answered

    def ttls(self, since_ns=0):
        """Send time and the TTLs there and back of every answered probe that was sent since then, in order."""
        answers = (more for kind, _, *more in self.records() if kind == "R")
        return sorted((int(sent), (int(there), int(back))) for sent, _, there, back in answers if int(sent) >= since_ns)

    def records(self):
        """The words of each line that is whole; none before the sender has begun."""
        if not os.path.exists(self.path):
            return
        with open(self.path) as lines:
            for line in lines:
                if line.endswith("\n"):
                    yield line.split()

    def flowing(self, probes=30, settle_ns=200_000_000):
        """True when the last probes, those still under way left out, were all answered."""
        sent, answered = self.read()
        ripe = [number for number, at in sent.items() if at < time.monotonic_ns() - settle_ns][-probes:]
        return len(ripe) == probes and all(number in answered for number in ripe)

    def outage(self, since_ns, until_ns):
        """Longest run of unanswered probes in ms, how many were lost, ms from `since_ns` to the last loss."""
        sent, answered = self.read()
        window = [number for number, at in sorted(sent.items()) if since_ns - STEP_NS <= at < until_ns]
        longest = run = lost = 0
        last = None
        for number in window:
            run = 0 if number in answered else run + 1
            if run:
                lost, last = lost + 1, sent[number]
            longest = max(longest, run)
        return {"outage_ms": longest * STEP_NS // 1_000_000, "lost": lost,
                "last_loss_ms": None if last is None else round((last - since_ns) / 1e6)}


if __name__ == "__main__":
    if sys.argv[1:2] == ["reflect"] and len(sys.argv) == 4:
        reflect(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["send"] and len(sys.argv) in (6, 7):
        step_ns = int(sys.argv[6]) * 1000 if len(sys.argv) == 7 else STEP_NS
        send(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5], step_ns)
    else:
        sys.exit(__doc__)
