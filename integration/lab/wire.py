"""A wire with a delay that can be changed at any time: carries frames between two interfaces of its own namespace.

    wire.py LEFT RIGHT CONTROL      CONTROL is a datagram socket; a message is the delay of either way in microseconds

Not every kernel has netem, and this wire delays every frame alike, so it reorders nothing.
"""

import collections
import os
import select
import socket
import sys
import time

ETH_P_ALL = 3
PACKET_OUTGOING = 4


def carry(left, right, control):
    sockets = []
    for name in (left, right):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sock.bind((name, 0))
        sock.setblocking(False)
        sockets.append(sock)
    orders = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    orders.bind(control)
    poller = select.epoll()
    for sock in (*sockets, orders):
        poller.register(sock, select.EPOLLIN)
    delay, under_way = 0, (collections.deque(), collections.deque())
    while True:
        due = min((queue[0][0] for queue in under_way if queue), default=None)
        poller.poll(-1 if due is None else max(0, due - time.monotonic()))
        now = time.monotonic()
        for way, sock in enumerate(sockets):
            for frame in received(sock):
                # What is slower than before is not overtaken, what is faster waits its turn.
                after = under_way[way][-1][0] if under_way[way] else 0
                under_way[way].append((max(now + delay, after), frame))
        try:
            delay = int(orders.recv(32, socket.MSG_DONTWAIT)) / 1e6
        except BlockingIOError:
            pass
        for way, queue in enumerate(under_way):
            while queue and queue[0][0] <= now:
                try:
                    sockets[1 - way].send(queue.popleft()[1])
                except OSError:
                    pass  # a full queue drops, as a wire does


def received(sock):
    while True:
        try:
            frame, sender = sock.recvfrom(65536)
        except OSError:
            return
        if sender[2] != PACKET_OUTGOING:
            yield frame


def delay(control, micros):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(str(int(micros)).encode(), control)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    os.nice(-5)
    carry(*sys.argv[1:])
