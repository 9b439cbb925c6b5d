"""What the coordinator's HTTP API takes for an answer while Kafka is away, beside one whose Kafka is there.

Two coordinators run at once on copies of one state: the same network, the same events in the outbox. The events of one are
all in Kafka; those of the other wait, and its mirror tries to reach a broker that is not there. They are asked in turn,
so that whatever else the machine does befalls both.
"""

import http.client
import json
import os
import shutil
import ssl
import subprocess
import time

from lab import kafka
from lab.net import LabError
from results import OURS

# What operators and their tools ask for: numbers, the state of the mirror, the past.
PATHS = ("network", "mirror", "nodes", "topology", "events?after={middle}&limit=100")
WITHIN = 120


class Coordinator:
    """A coordinator in a process of its own, with one connection to its API."""

    def __init__(self, program, state, port, brokers=None):
        self.program, self.state, self.port = program, state, port
        with open(os.path.join(os.path.dirname(state), f"{port}.toml"), "w") as out:
            out.write(f'listen = "127.0.0.1:{port}"\nlog = "error"\n[outbox]\nkeep_events = 100000000\n')
            if brokers:
                out.write(f'[kafka]\nbrokers = ["{brokers}"]\n')
        self.config = out.name
        self.process = self.connection = None

    def __enter__(self):
        command = ["setpriv", "--pdeathsig", "KILL", self.program, "serve", "--state", self.state, "--config", self.config]
        self.process = subprocess.Popen(command)
        with open(os.path.join(self.state, "admin.token")) as token:
            self.headers = {"Authorization": f"Bearer {token.read().strip()}"}
        self.until(lambda network: True)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ask(self, path):
        if self.connection is None:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=context)
        self.connection.request("GET", f"/api/v1/{path}", headers=self.headers)
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise LabError(f"the coordinator answers {answer.status} to {path}: {body[:300]}")
        return body

    def until(self, wanted):
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            try:
                network = json.loads(self.ask("network"))
            except (OSError, http.client.HTTPException):
                self.connection = None
            else:
                if wanted(network):
                    return network
            time.sleep(0.1)
        raise LabError(f"a coordinator did not come to what it should within {WITHIN} s")


def measure(size, found, program, write, state):
    """`write` fills a database with so many events and has ended well then."""
    coordinator = program("wattle-coordinator")
    first = os.path.join(state, "first")
    there, away, dead = kafka.free_ports(3)
    subprocess.run([coordinator, "init", "--network", "lab", "--listen", f"127.0.0.1:{there}", "--state", first],
                   check=True, stdout=subprocess.DEVNULL, timeout=60)
    with Coordinator(coordinator, first, there) as made:
        network = made.until(lambda network: True)["id"]
    write("--state", first, "--network", "lab", "--network-id", network, "--events", size.backlog)
    second = os.path.join(state, "second")
    shutil.copytree(first, second)
    with kafka.Cluster() as cluster, Coordinator(coordinator, first, there, cluster.bootstrap) as up, \
            Coordinator(coordinator, second, away, f"127.0.0.1:{dead}") as out:
        up.until(lambda network: network["mirrored_seq"] == network["last_seq"])
        out.until(lambda network: network["mirrored_seq"] == 0 and network["last_seq"] >= size.backlog)
        for _ in range(size.rounds):
            ask_both(size, found, up, out)


def ask_both(size, found, up, out):
    took = {up: [], out: []}
    for number in range(size.requests):
        path = PATHS[number % len(PATHS)].format(middle=size.backlog // 2)
        for one in (up, out) if number % 2 else (out, up):
            began = time.perf_counter()
            one.ask(path)
            took[one].append((time.perf_counter() - began) * 1_000)
    for one, name in ((up, "up"), (out, "outage")):
        took[one].sort()
        for share in (50, 99):
            found.put(f"api_{name}_p{share}_ms", OURS, took[one][len(took[one]) * share // 100])
        found.note(f"api_{name}_p99_ms", OURS, f"{size.requests} requests a round beside {size.backlog} events, the longest {took[one][-1]:.1f} ms")
    for share in (50, 99):
        at = size.requests * share // 100
        found.put(f"api_outage_p{share}_ratio", OURS, took[out][at] / took[up][at])
