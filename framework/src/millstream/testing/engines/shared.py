"""One engine for all tests of a pytest process: starting one takes seconds, and a Kafka broker takes 350 MB."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import pytest

from .server import EngineServer

__all__ = ["shared_engine"]

_Server = TypeVar("_Server", bound=EngineServer)
_RUNNING = pytest.StashKey[dict[type[EngineServer], EngineServer]]()


def shared_engine(config: pytest.Config, kind: type[_Server], make: Callable[[], _Server]) -> _Server:
    """The engine of this kind, made and started by the first who asks, and stopped at the end of the process.

    A test may kill or stop it: whoever asks next finds it running again, with its data. So tests use names of their own in it.

    Raises:
        EngineUnavailable: it does not start.
    """
    running = config.stash.setdefault(_RUNNING, {})
    server = running.get(kind)
    if not isinstance(server, kind):
        server = running[kind] = make()
        config.add_cleanup(server.stop)
    server.start()
    return server
