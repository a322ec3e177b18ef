"""`millstream up --split` as a real process with its children, for tests."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millstream.clock import SystemClock
from millstream.http.development import development_key, issue_token

__all__ = ["Answer", "SplitSystem", "alive", "until"]

START_SECONDS = 90.0
PATIENCE = 45.0


class Answer:
    def __init__(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.status = status
        self.body = body
        self.headers = headers

    def json(self) -> Any:
        return json.loads(self.body)


class SplitSystem:
    """One system on one folder. Not started yet; `close` kills whatever is left."""

    def __init__(self, folder: Path, *options: str, **settings: str) -> None:
        self.folder = folder
        self.data = folder / "var"
        self.log = folder / "log"
        self.options = options
        self.settings = settings
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.seen = set[int]()

    def begin(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "millstream", "up", "split_app:all", "--split", "--port", "0", "--json",
                 "--data", str(self.data), *self.options],
                cwd=self.folder, stdout=subprocess.PIPE, stderr=log, env=self.environment,
            )  # fmt: skip

    def start(self) -> None:
        self.begin()
        assert self.process is not None
        assert self.process.stdout is not None
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if select.select([self.process.stdout], [], [], 0.2)[0]:
                line = self.process.stdout.readline()
                if not line:
                    break
                if b'"ready"' in line:
                    self.url = json.loads(line)["url"]
                    self.seen |= set(self.children())
                    return
        raise AssertionError(f"it did not become ready: {self.said()}")

    def stop(self) -> int:
        assert self.process is not None
        self.seen |= set(self.children())
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.wait()
        until(lambda: not any(alive(pid) for pid in self.seen), "every process of the system is gone")

    def children(self) -> list[int]:
        assert self.process is not None
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in found]

    def pid_of(self, name: str) -> int:
        return json.loads((self.data / "processes" / f"{name}.json").read_bytes())["pid"]

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MILLSTREAM_", "OTEL_"))}
        path = os.pathsep.join(filter(None, (str(Path(__file__).parent), kept.get("PYTHONPATH", ""))))
        return {**kept, "PYTHONPATH": path, **{f"MILLSTREAM_{key}": value for key, value in self.settings.items()}}

    def token(self, subject: str = "ann", *roles: str) -> str:
        return issue_token(development_key(self.data / "development.key"), subject, roles, clock=SystemClock())

    def call(
        self, method: str, path: str, body: object = None, headers: dict[str, str] | None = None, token: str = ""
    ) -> Answer:
        given = {"authorization": f"Bearer {token}"} if token else {}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            given["content-type"] = "application/json"
        request = urllib.request.Request(self.url + path, payload, {**given, **(headers or {})}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as reply:
                return Answer(reply.status, reply.read(), {k.lower(): v for k, v in reply.headers.items()})
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.read(), {k.lower(): v for k, v in error.headers.items()})

    def note(self, text: str, key: str | None = None) -> Answer:
        headers = {"idempotency-key": key or f"key-{text}"}
        return self.call("POST", "/notes", {"text": text}, headers, self.token())

    def read(self) -> list[str]:
        return self.call("GET", "/read", token=self.token()).json()

    def cli(self, *arguments: str) -> list[Any]:
        command = [sys.executable, "-m", "millstream", *arguments, "--data", str(self.data), "--json"]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False, env=self.environment
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked about does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], Any], what: str, limit: float = PATIENCE) -> Any:
    """What the condition gives, once it holds."""
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, f"it did not come true within {limit} s: {what}"
        time.sleep(0.02)
    return found
