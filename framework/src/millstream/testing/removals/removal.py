"""Collaborators with a safeguard taken out. The product has no switch for any of this: what composes the system hands in
a store or a log that behaves as if the rule did not exist.
"""

from __future__ import annotations

from ...ports.store import Store
from ...ports.transport import Transport

__all__ = ["INTACT", "Removal"]


class Removal:
    """Takes out nothing; what takes out something overrides what it stands in for.

    synchronous: the setting of SQLite that stores are opened with.
    """

    synchronous = "FULL"

    def store(self, store: Store, service: str) -> Store:
        """The store that this service gets instead."""
        return store

    def transport(self, transport: Transport) -> Transport:
        """The log that everybody gets instead."""
        return transport


INTACT = Removal()
