"""`millstream up` as a child process: started, killed and started again on the same data folder and the same port."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from millstream.cli.load.connection import Address
from millstream.clock import SystemClock
from millstream.http.development import development_key, issue_token
from millstream.runtime.settings import load_settings

__all__ = ["PAYMENTS_PATH", "Up", "free_port"]

PAYMENTS_PATH = "millstream_services.payments_path:all"
START_SECONDS = 60.0
STOP_SECONDS = 60.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Up:
    """A system on one folder and one port."""

    def __init__(self, folder: Path, app: str = PAYMENTS_PATH, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "var"
        self.log = folder / "up.log"
        self.app = app
        self.settings = settings
        self.address = Address("127.0.0.1", free_port())
        self.process: subprocess.Popen[bytes] | None = None

    # -- the process --------------------------------------------------------------------------------------------------

    def spawn(self) -> subprocess.Popen[bytes]:
        """Another process of the same system; does not wait for it."""
        command = (sys.executable, "-m", "millstream", "up", self.app, "--port", str(self.address.port), "--json")
        with self.log.open("ab") as log:
            return subprocess.Popen(
                (*command, "--data", str(self.data)), cwd=self.folder, stdout=subprocess.PIPE, stderr=log,
                env=self.environment,
            )  # fmt: skip

    def begin(self) -> None:
        """Start it."""
        self.process = self.spawn()

    def wait_until_ready(self) -> None:
        """Return once it serves."""
        process = self.process
        assert process is not None
        assert process.stdout is not None
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if select.select([process.stdout], [], [], 0.5)[0]:
                line = process.stdout.readline()
                if not line:
                    break
                if b'"ready"' in line:
                    return
        raise AssertionError(f"it did not become ready: {self.said()}")

    def start(self) -> None:
        self.begin()
        self.wait_until_ready()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Its exit code."""
        process, self.process = self.process, None
        assert process is not None
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"it did not end within {seconds} s: {self.said()}") from None
        finally:
            if process.stdout is not None:
                process.stdout.close()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.wait() == -signal.SIGKILL

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def clean_up(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.wait()

    def said(self) -> str:
        """What it wrote to its log."""
        return self.log.read_text(errors="replace")[-3000:]

    # -- around it ------------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MILLSTREAM_", "OTEL_"))}
        path = os.pathsep.join(filter(None, (str(Path(__file__).parent), kept.get("PYTHONPATH", ""))))
        return {**kept, "PYTHONPATH": path, **{f"MILLSTREAM_{key}": value for key, value in self.settings.items()}}

    def token(self, subject: str, *roles: str) -> str:
        key = development_key(load_settings(None, {}, {"data": self.data}).development_key)
        return issue_token(key, subject, roles, "1h", clock=SystemClock())

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A command on the running system."""
        command = (sys.executable, "-m", "millstream", *arguments, "--data", str(self.data))
        return subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False, env=self.environment
        )

    def cli_json(self, *arguments: str) -> Any:
        done = self.cli(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]
