"""Which way a call takes: to a service of this process directly, to any other over the network."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from ..caller import Caller
from ..service.contract import Channel

__all__ = ["NearestChannel"]


class NearestChannel:
    """A `Channel` of two: `here` for the contracts in `served`, `remote` for all others. Callers cannot tell which."""

    def __init__(self, served: AbstractSet[str], here: Channel, remote: Channel) -> None:
        self._served = served
        self._here = here
        self._remote = remote

    async def call(self, service: str, method: str, request: bytes, caller: Caller, timeout: float) -> bytes:
        channel = self._here if service in self._served else self._remote
        return await channel.call(service, method, request, caller, timeout)
