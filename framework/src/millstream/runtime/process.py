"""What makes a runtime a process: signals, a watchdog, and the HTTP server.

Kill -9 is the specification; a graceful stop only saves repeated work. A second signal exits at once, and the watchdog
exits before whoever started us loses patience, whatever hangs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import uvicorn

from ..errors import Misconfigured, Transient

__all__ = ["Server", "Signals", "bind", "fetch", "watchdog"]

WATCHDOG_MARGIN = 2.0


class Signals:
    """SIGTERM and SIGINT: the first sets `received`, the second ends the process."""

    def __init__(self) -> None:
        self.received = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self.received.is_set():
            os._exit(130)
        self.received.set()


def watchdog(grace: float) -> threading.Timer:
    """End the process shortly before `grace` seconds are over. A thread: the event loop may be what hangs."""

    def give_up() -> None:
        sys.stderr.write("millstream: the shutdown did not finish in time\n")
        sys.stderr.flush()
        os._exit(1)

    timer = threading.Timer(max(1.0, grace - WATCHDOG_MARGIN), give_up)
    timer.daemon = True
    timer.start()
    return timer


def bind(host: str, port: int) -> socket.socket:
    """A listening socket's address, taken before anything slow starts.

    Raises:
        Misconfigured: the address is in use or not ours; names the port and what to do.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
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
