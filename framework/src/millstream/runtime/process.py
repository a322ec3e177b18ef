"""What makes a runtime a process: signals, a watchdog, and the HTTP server.

Kill -9 is the specification; a graceful stop only saves repeated work. A second signal exits at once, and the watchdog
exits before whoever started us loses patience, whatever hangs.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn

from ..errors import Misconfigured, Transient

__all__ = ["Server", "Signals", "Watchdog", "bind", "fetch", "stop_with_supervisor"]

WATCHDOG_MARGIN = 2.0
FRESH_SECONDS = 0.5
"""How long connections that were made just before the listener closes may take to be accepted and to send a request."""


class Signals:
    """SIGTERM and SIGINT: the first sets `received` and starts the watchdog, the second ends the process.

    The handlers are Python's own and not the event loop's: they run also while something blocks the loop.
    """

    def __init__(self, grace: float) -> None:
        self.received = asyncio.Event()
        self.watchdog = Watchdog(grace)
        self._loop = asyncio.get_running_loop()
        self._once = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._once:
            os._exit(130)
        self._once = True
        self.watchdog.start()
        self._loop.call_soon_threadsafe(self.received.set)


class Watchdog:
    """Ends the process shortly before `grace` seconds from `start` on are over, in a thread: the loop may be what hangs.

    The thread is there from the beginning, because a signal's handler must not make one.
    """

    def __init__(self, grace: float) -> None:
        self.seconds = max(1.0, grace - WATCHDOG_MARGIN)
        """What a shutdown has for all of its steps."""
        self._started = threading.Event()
        self._over = threading.Event()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def start(self) -> None:
        """The shutdown begins."""
        self._started.set()

    def cancel(self) -> None:
        """The shutdown is over."""
        self._over.set()
        self._started.set()

    def _run(self) -> None:
        self._started.wait()
        if not self._over.wait(self.seconds):
            sys.stderr.write("millstream: the shutdown did not finish in time\n")
            sys.stderr.flush()
            os._exit(1)


def stop_with_supervisor() -> None:
    """Take the end of standard input for SIGTERM: whoever started this process holds the other end, and the system
    closes it for them however they end. In a thread: the loop may be what hangs."""

    def watch() -> None:
        try:
            while os.read(0, 1):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket's address, taken before anything slow starts. shared: other processes of the same user may
    listen there, too; the system divides the connections among them.

    Raises:
        Misconfigured: the address is in use or not ours; names the port and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        server.bind((host, port))
    except OSError as error:
        server.close()
        raise Misconfigured(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another with --port, or 0 for a free one"
        ) from error
    return server


class Server:
    """uvicorn on a bound socket, under our own signals."""

    def __init__(self, app: Any, listener: socket.socket, drain_seconds: float) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=True,
            timeout_graceful_shutdown=max(1, round(drain_seconds)),
            backlog=2048,
        )
        self._server = _UnderOurSignals(config)
        self._listener = listener

    async def run(self) -> None:
        """Serve until `close`."""
        await self._server.serve(sockets=[self._listener])

    @property
    def started(self) -> bool:
        """Whether it accepts connections."""
        return self._server.started

    def close(self) -> None:
        """Close the listener; requests under way get their replies."""
        self._server.should_exit = True


class _UnderOurSignals(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listener; answer also those who were connected by then and whose request is still on its way."""
        listeners = sockets or []
        until = time.monotonic() + FRESH_SECONDS
        # Closing a listener resets who stands in its queue: let nobody new in, and close it when it is empty.
        for listener in listeners:
            listener.listen(0)
        while select.select(listeners, [], [], 0)[0] and time.monotonic() < until:  # noqa: ASYNC110 - the loop accepts
            await asyncio.sleep(0)
        for server in self.servers:
            server.close()
        for listener in listeners:
            listener.close()
        while any(map(_is_fresh, self.server_state.connections)) and time.monotonic() < until:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
        await super().shutdown(sockets)


def _is_fresh(connection: Any) -> bool:
    """Whether no request has come on it yet."""
    return getattr(connection, "cycle", None) is None


async def fetch(url: str) -> bytes:
    """The body under a URL, for an issuer's keys.

    Raises:
        Transient: it could not be had within five seconds.
    """
    import aiohttp  # only where an issuer's keys are fetched: it would cost every start a tenth of a second

    timeout = aiohttp.ClientTimeout(total=5)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
            reply.raise_for_status()
            return await reply.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Transient(f"{url}: {error}") from error
