"""A server that a test owns: started on free loopback ports, killed and restarted at will, stopped by its process id."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["EngineServer", "EngineUnavailable", "free_port", "install_debian_packages"]

START_SECONDS = 60.0
STOP_SECONDS = 30.0


class EngineUnavailable(Exception):
    """An engine cannot be had or does not start. Never a reason to skip a test: it fails, and says what to install."""


class EngineServer:
    """One node of an engine. A subclass says how to start it, when it is ready, and what its URL is.

    folder: its data and its log file `server.log` live there; the caller removes it.
    """

    name = "engine"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What a service's configuration takes."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The program and its arguments."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """What the process gets on top of this one's environment."""
        return {}

    def prepare(self) -> None:
        """Before the first start: write configuration, initialise the data folder."""

    def ready(self) -> bool:
        """Whether it answers now. Asked every few milliseconds; must not wait long itself."""
        raise NotImplementedError

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start, and return once it answers. After `kill` or `stop` it comes back with its data, on the same ports.

        Raises:
            EngineUnavailable: it ended or did not answer in time; carries the end of its log.
        """
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._process is None:
            self.prepare()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment()},
                start_new_session=True,  # Ctrl-C in a terminal is for the test, which then stops its servers
            )
        until = time.monotonic() + START_SECONDS
        while not self.ready():
            if self._process.poll() is not None:
                raise EngineUnavailable(f"{self.name} ended with {self._process.returncode}:\n{self.log_tail()}")
            if time.monotonic() > until:
                self.kill()
                raise EngineUnavailable(f"{self.name} did not answer in {START_SECONDS:.0f} s:\n{self.log_tail()}")
            time.sleep(0.02)

    def stop(self) -> None:
        """End it in an orderly way; by force after half a minute."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: what a crash does."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nobody, like a half-open peer."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def log_tail(self, lines: int = 30) -> str:
        """The end of what it printed."""
        text = (self.folder / "server.log").read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        if how is signal.SIGKILL:
            os.killpg(process.pid, how)  # with everything it started: postgres has a process per connection
        else:
            process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def free_port() -> int:
    """A free loopback port below the range that the system takes source ports from. In that range a client that dials a
    server which is down can meet itself, or hold the port when the server comes back."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def install_debian_packages(*packages: str, needs: Path) -> None:
    """Install packages of the distribution unless `needs` is there, without starting the services they bring.

    Raises:
        EngineUnavailable: this is no Debian, or we may not install: names the command for whoever may.
    """
    if needs.exists():
        return
    asked = "apt-get install --yes --no-install-recommends " + " ".join(packages)
    if os.geteuid() != 0:
        raise EngineUnavailable(f"{needs} is missing. As root: {asked}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for command in ("apt-get update", asked):
        print(f"installing {', '.join(packages)}: {command}", file=sys.stderr)
        done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise EngineUnavailable(f"{command}: {done.stderr[-2000:]}")
    if not needs.exists():
        raise EngineUnavailable(f"{' '.join(packages)} did not bring {needs}")
