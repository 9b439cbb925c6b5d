"""Apache Kafka on loopback for benches: one broker or three, killed and started at will, gone with this process."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from lab.net import LabError

LIBS = "WATTLE_KAFKA_LIBS"
CLUSTER = "d2F0dGxlLWJlbmNoLXdhdA"
START_WITHIN = 120


def free_ports(count):
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


class Cluster:
    """Brokers that are controllers, too. `with Cluster(3) as kafka:` has them running."""

    def __init__(self, count=1):
        self.jars = os.environ.get(LIBS)
        if not self.jars or not os.path.exists(os.path.join(self.jars, "complete")):
            raise LabError(f"{LIBS} names no folder with Kafka: run this through tools/bench")
        self.count = count
        ports = free_ports(2 * count)
        self.ports, self.controllers = ports[:count], ports[count:]
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        self.dir = tempfile.mkdtemp(prefix="wl-kafka-")
        self.processes = [None] * count

    def __enter__(self):
        try:
            for at in range(self.count):
                self._configure(at)
                self._format(at)
                self.spawn(at)
            self.wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for at in range(self.count):
            self.kill(at)
        shutil.rmtree(self.dir, ignore_errors=True)

    def spawn(self, at):
        log = open(self._path(at, "log"), "ab")
        self.processes[at] = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", *self._java(), "kafka.Kafka", self._path(at, "properties")],
                                              stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def kill(self, at):
        process, self.processes[at] = self.processes[at], None
        if process:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def wait(self):
        """Until every broker is known to the others."""
        deadline = time.monotonic() + START_WITHIN
        while time.monotonic() < deadline:
            asked = subprocess.run(["kcat", "-b", self.bootstrap, "-L", "-m", "2"], capture_output=True, text=True)
            if asked.returncode == 0 and f" {self.count} brokers:" in asked.stdout:
                return
            for at, process in enumerate(self.processes):
                if process and process.poll() is not None:
                    raise LabError(f"broker {at + 1} ended:\n{self.log_tail(at)}")
            time.sleep(0.1)
        raise LabError(f"the brokers do not answer:\n{self.log_tail(0)}")

    def log_tail(self, at):
        with open(self._path(at, "log"), errors="replace") as log:
            return "".join(log.readlines()[-30:])

    def _path(self, at, what):
        return os.path.join(self.dir, f"{at + 1}.{what}")

    def _java(self):
        return ["java", "-Xmx512m", "-XX:+UseSerialGC", f"-XX:SharedArchiveFile={self.jars}/classes.jsa", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{self.jars}/*"]

    def _configure(self, at):
        copies, isr = min(3, self.count), 2 if self.count > 2 else 1
        listeners = f"PLAINTEXT://127.0.0.1:{self.ports[at]},CONTROLLER://127.0.0.1:{self.controllers[at]}"
        voters = ",".join(f"{number + 1}@127.0.0.1:{port}" for number, port in enumerate(self.controllers))
        with open(self._path(at, "properties"), "w") as out:
            out.write(f"""process.roles=broker,controller
node.id={at + 1}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
listeners={listeners}
advertised.listeners=PLAINTEXT://127.0.0.1:{self.ports[at]}
broker.rack=zone-{at + 1}
log.dir={self._path(at, "data")}
default.replication.factor={copies}
min.insync.replicas={isr}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=1
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={isr}
transaction.state.log.num.partitions=1
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={isr}
group.initial.rebalance.delay.ms=0
auto.create.topics.enable=false
log.cleaner.dedupe.buffer.size=8388608
num.network.threads=2
num.io.threads=2
""")

    def _format(self, at):
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", self._path(at, "properties")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise LabError(f"Kafka's storage could not be formatted: {done.stderr}")
