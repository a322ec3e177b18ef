"""For applications that are there already: their own transaction, their own database library.

`Outbox` lets events leave with the commit of the caller's transaction; `Inbox` says whether a message is a repeat, inside
the transaction of its work; `tables` is the schema, for the caller's own migration tool. `millstream relay` forwards what
was committed. Guide: docs/guide/adoption.md.
"""

from .inbox import Inbox, OlderThanInbox
from .outbox import Outbox
from .tables import tables

__all__ = ["Inbox", "OlderThanInbox", "Outbox", "tables"]
