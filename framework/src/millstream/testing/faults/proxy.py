"""The test's hand on the proxy's process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self, final

import msgspec

from ..engines.server import free_port
from .plan import Episode
from .wire import Order, Passed

__all__ = ["FaultProxy", "Passed"]

STOP_SECONDS = 5.0


@final
class FaultProxy:
    """A proxy before one server, from `start` to `stop` in a process of its own. Blocks while it waits.

    upstream_port, host: of the server; it may start later. port: of the proxy, for clients. seed: decides where
    connections are torn and data is sliced. counts: episodes so far, by kind.
    """

    def __init__(self, upstream_port: int, *, host: str = "127.0.0.1", port: int | None = None, seed: int = 1) -> None:
        self.port = port or free_port()
        self.counts: Counter[str] = Counter()
        self._arguments = [str(self.port), host, str(upstream_port), str(seed)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Listen; returns once it does."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "millstream.testing.faults", *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in a terminal is for the test, which then stops its proxies
        )
        self._answer()

    def stop(self) -> None:
        """End it; all connections go with it."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def begin(self, episode: Episode) -> None:
        """From now on the network is as the episode says."""
        self._ask(Order("begin", episode))
        self.counts[episode.kind] += 1

    def end(self) -> None:
        """Heal the network."""
        self._ask(Order("end"))

    def play(self, episode: Episode) -> None:
        """A whole episode: returns once it is over and healed."""
        self.begin(episode)
        time.sleep(episode.seconds)
        self.end()

    def play_all(self, plan: Iterable[Episode], *, rest_seconds: float) -> None:
        """One episode after the other, with a rest of a healthy network between them."""
        for episode in plan:
            self.play(episode)
            time.sleep(rest_seconds)

    def passed(self) -> Passed:
        """What went through it."""
        return self._ask(Order("count"))

    def _ask(self, order: Order) -> Passed:
        assert self._process is not None, "the proxy was not started"
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Passed:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fault proxy at port {self.port} ended with {self._process.wait()}")
        return msgspec.json.decode(line, type=Passed)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
