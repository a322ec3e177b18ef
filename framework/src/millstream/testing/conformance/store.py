"""The store suite: derive from `StoreConformance` and override its fixture `make`."""

from __future__ import annotations

from .store_notifications import Notifications
from .store_opening import Opening
from .store_statements import Statements
from .store_transactions import Transactions
from .store_waits import Waits

__all__ = ["StoreConformance"]


class StoreConformance(Opening, Transactions, Statements, Waits, Notifications):
    """Every promise of `ports/store.py`. See `StoreCase` for what to override."""
