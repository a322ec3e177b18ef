"""Apache Kafka for tests, in KRaft mode: one node, or a cluster of three that can lose a partition's leader.

The jars come from Maven Central, by the machine's own `mvn` and its settings, once per user and version. Each node is broker
and controller in one, with the heap and the compiler of a small machine: it answers after two seconds and takes 350 MB.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from .server import START_SECONDS, EngineServer, EngineUnavailable, free_port, install_debian_packages

__all__ = ["KAFKA_VERSION", "KafkaCluster", "KafkaServer"]

KAFKA_VERSION = "4.3.0"
DOWNLOAD_SECONDS = 300.0
ASK_SECONDS = 1.0
"""How long one question to a node may take before it counts as not answered."""

SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
    "sasl.enabled.mechanisms": "PLAIN",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # By default there are 50 partitions each for offsets, transactions and shares: seconds at every start.
    "offsets.topic.num.partitions": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # A node that was killed may register again only once its old session is over: nine seconds by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "num.network.threads": "2",
    "num.io.threads": "4",
}
_JAVA_OPTIONS = (
    *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"),
    # A third of what a start takes is looking through classes that are as they were released.
    *("-XX:+IgnoreUnrecognizedVMOptions", "-XX:+UnlockDiagnosticVMOptions", "-XX:-BytecodeVerificationRemote"),
)


class KafkaServer(EngineServer):
    """One node, which holds every partition alone.

    settings: lines of the broker's configuration beside and above `SETTINGS`. heap_megabytes: of its virtual machine.
    """

    name = "kafka"
    user = "millstream"
    password = "a s/cret"
    """Who may come in at `guarded`, and nobody else (SASL/PLAIN)."""

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, *, heap_megabytes: int = 512) -> None:
        super().__init__(folder.resolve())
        self.port = free_port()
        self.controller_port = free_port()
        self.node_id = 1
        self.cluster_id = _cluster_id()
        self.voters = f"1@127.0.0.1:{self.controller_port}"
        self.replication = 1
        self._settings = dict(settings or {})
        self._heap_megabytes = heap_megabytes
        self._guarded_port = free_port()

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}"

    @property
    def bootstrap(self) -> str:
        """What any client of Kafka takes as `bootstrap.servers`."""
        return f"127.0.0.1:{self.port}"

    @property
    def guarded(self) -> str:
        """The same for clients that say who they are."""
        return f"127.0.0.1:{self._guarded_port}"

    def command(self) -> list[str]:
        return self._java("kafka.Kafka", str(self._file))

    def prepare(self) -> None:
        lines = {
            **SETTINGS,
            "node.id": str(self.node_id),
            "controller.quorum.voters": self.voters,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.controller_port},"
            f"GUARDED://{self.guarded}",
            "listener.name.guarded.plain.sasl.jaas.config": "org.apache.kafka.common.security.plain.PlainLoginModule "
            f'required user_{self.user}="{self.password}";',
            "log.dirs": str(self.folder / "data"),
            "default.replication.factor": str(self.replication),
            "offsets.topic.replication.factor": str(self.replication),
            "transaction.state.log.replication.factor": str(self.replication),
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": str(self.replication),
            **self._settings,
        }
        self._file.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        command = self._java("kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(self._file))
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EngineUnavailable(f"{self.name} cannot format {self.folder}:\n{done.stdout}{done.stderr}")

    def ready(self) -> bool:
        return self.listens() and self.registered() >= 1

    def listens(self) -> bool:
        """Whether it accepts connections."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=ASK_SECONDS):
                return True
        except OSError:
            return False

    def registered(self) -> int:
        """How many brokers this node knows to be up; 0 while it does not answer."""
        try:
            return len(_admin(self.bootstrap).list_topics(timeout=ASK_SECONDS).brokers)
        except KafkaException:
            return 0

    @property
    def _file(self) -> Path:
        return self.folder / "server.properties"

    def _java(self, *arguments: str) -> list[str]:
        return [
            _program("java", "default-jre-headless"),
            f"-Xmx{self._heap_megabytes}m",
            *_JAVA_OPTIONS,
            "-cp",
            f"{_jars(KAFKA_VERSION)}/*",
            *arguments,
        ]


class KafkaCluster:
    """Three nodes. As its URL says, a topic has three replicas, and two of them confirm.

    settings: as for `KafkaServer`, for every node.
    """

    def __init__(self, folder: Path, settings: Mapping[str, str] | None = None, *, nodes: int = 3) -> None:
        self.nodes = [
            _Member(folder / f"node-{number}", settings, heap_megabytes=256) for number in range(1, nodes + 1)
        ]
        voters = ",".join(f"{number}@127.0.0.1:{node.controller_port}" for number, node in enumerate(self.nodes, 1))
        cluster_id = _cluster_id()
        for number, node in enumerate(self.nodes, 1):
            node.node_id, node.cluster_id, node.voters, node.replication = number, cluster_id, voters, nodes

    @property
    def url(self) -> str:
        return f"kafka://{self.bootstrap}?replication={len(self.nodes)}&min_insync=2"

    @property
    def bootstrap(self) -> str:
        """What any client of Kafka takes as `bootstrap.servers`."""
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> None:
        """Start every node that is not running, and return once each of them knows all of them.

        Raises:
            EngineUnavailable: they did not find together in time.
        """
        with ThreadPoolExecutor(len(self.nodes)) as pool:
            list(pool.map(_Member.start, self.nodes))
        patience = START_SECONDS * len(self.nodes)
        until = time.monotonic() + patience
        while any(node.registered() < len(self.nodes) for node in self.nodes):
            if time.monotonic() > until:
                tails = "\n".join(node.log_tail(10) for node in self.nodes)
                raise EngineUnavailable(f"the cluster is not complete after {patience:.0f} s:\n{tails}")
            time.sleep(0.2)

    def stop(self) -> None:
        """End all nodes. By force: an orderly stop of the last ones waits for a quorum that has gone."""
        for node in self.nodes:
            node.kill()

    def leader_of(self, topic: str, partition: int) -> KafkaServer | None:
        """The node that leads a partition; None while nobody does, or nobody says."""
        try:
            found = _admin(self.bootstrap).list_topics(topic, timeout=ASK_SECONDS).topics[topic]
        except KafkaException:
            return None
        placed = found.partitions.get(partition)
        return next((node for node in self.nodes if placed is not None and node.node_id == placed.leader), None)

    def in_sync(self, topic: str, partition: int) -> int:
        """How many nodes have all of a partition; 0 while nobody says."""
        try:
            found = _admin(self.bootstrap).list_topics(topic, timeout=ASK_SECONDS).topics[topic]
        except KafkaException:
            return 0
        placed = found.partitions.get(partition)
        return 0 if placed is None else len(placed.isrs)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Member(KafkaServer):
    """A node of a cluster: it answers only once a majority is there, so it counts as started when its process runs."""

    def ready(self) -> bool:
        return self.pid is not None


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})


def _cluster_id() -> str:
    """22 characters, and none of them a leading dash, which the tool would take for an option."""
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        install_debian_packages(package, needs=Path("/usr/bin") / name)
        found = f"/usr/bin/{name}"
    return found


def _jars(version: str) -> Path:
    """The folder with the broker's jars, filled at the first call on this machine."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "millstream"
    folder = cache / f"kafka-{version}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    print(f"fetching the jars of Kafka {version} with mvn into {folder}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        command = [
            _program("mvn", "maven"),
            *("--quiet", "--batch-mode", "--file", str(Path(__file__).with_name("kafka-pom.xml"))),
            "dependency:copy-dependencies",
            *(f"-Dkafka.version={version}", f"-DoutputDirectory={scratch}/jars"),
        ]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise EngineUnavailable(f"mvn had not fetched Kafka {version} after {DOWNLOAD_SECONDS:.0f} s") from error
        if done.returncode != 0:
            raise EngineUnavailable(f"mvn cannot fetch Kafka {version}:\n{(done.stdout + done.stderr)[-3000:]}")
        try:
            # In one step, so that a process that is killed, or a second one, never leaves half a folder.
            Path(scratch, "jars").rename(folder)
        except OSError:
            if not folder.exists():  # otherwise another process was faster
                raise
    return folder
