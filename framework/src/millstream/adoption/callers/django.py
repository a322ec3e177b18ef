"""Django: `django.db.connection`, or another of `django.db.connections`, inside `transaction.atomic()`.

Django has hooks behind a commit and none before it. What every outermost `atomic` block calls last is the connection's
own `commit()`: from its first publication on, a connection's `commit` writes what was published and then commits. So
plain `atomic`, `ATOMIC_REQUESTS` and libraries that open the block need nothing else.

The rows wait among Django's own `on_commit` hooks. So Django drops what a rolled back savepoint published, and if ever
rows should still be there behind the commit, the hook says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast, final

from ...errors import MillstreamError, Misconfigured
from ..rows import OutboxRow, slots_of
from ..statements import Place

__all__ = ["accept", "add"]

VENDORS = ("postgresql", "sqlite")


@final
class _Waiting:
    """A row that waits, as a hook of Django's."""

    __qualname__ = "millstream.adoption.publish"

    def __init__(self, connection: Any, place: Place, row: OutboxRow) -> None:
        self.connection = connection
        self.place = place
        self.row = row
        self.written = False

    def __call__(self) -> None:
        if self.written:
            return
        if not self.connection.in_atomic_block:
            raise MillstreamError(
                f"an event on topic {self.row.topic} was not written before its commit, and is lost: something replaced "
                "the commit method of Django's connection"
            )
        _write(self.connection)  # a TestCase runs its hooks inside the test's own transaction


def add(place: Place, connection: Any, row: OutboxRow) -> None:
    """Let a row leave with the commit of the outermost `atomic` block."""
    connection = _wrapper(connection)
    _check(connection, "publish")
    if "commit" not in vars(connection):
        connection.commit = partial(_commit, connection)
    connection.on_commit(_Waiting(connection, place, row))


def accept(connection: Any, insert: str, bound: str, params: Sequence[Any]) -> tuple[bool, int]:
    """Insert an inbox row; whether it is new, and the bound below which the inbox has forgotten (0: none)."""
    connection = _wrapper(connection)
    _check(connection, "accept")
    with connection.cursor() as cursor:
        cursor.execute(insert, params)
        if cursor.fetchone() is None:
            return False, 0
        cursor.execute(bound, params[:2])
        found = cursor.fetchone()
        return True, 0 if found is None else found[0]


def _commit(connection: Any) -> None:
    try:
        _write(connection)
    except BaseException:
        # Django undoes a commit that the database refuses, and would keep the business rows after any other error.
        connection.rollback()
        raise
    cast(Any, type(connection)).commit(connection)


def _write(connection: Any) -> None:
    waiting = [hook for _, hook, _ in connection.run_on_commit if isinstance(hook, _Waiting) and not hook.written]
    for place in dict.fromkeys(entry.place for entry in waiting):
        rows = [entry.row for entry in waiting if entry.place is place]
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute(place.lock_and_ring("%s"), (slots_of(rows),))
                insert = place.insert_row("%s")
            else:
                insert = Place().insert_row("%s")
            cursor.executemany(insert, [(r.slot, r.topic, r.key, r.value) for r in rows])
    for entry in waiting:
        entry.written = True


def _wrapper(connection: Any) -> Any:
    """The connection itself: `django.db.connection` stands for that of the thread."""
    from django.db import connections  # pyright: ignore[reportMissingTypeStubs] - Django ships none

    return cast(Any, connections)[connection.alias]


def _check(connection: Any, what: str) -> None:
    if connection.vendor not in VENDORS:
        raise Misconfigured(f"Django on {connection.vendor}: an outbox needs {' or '.join(VENDORS)}")
    if not connection.in_atomic_block:
        raise Misconfigured(f"{what} inside a transaction: with transaction.atomic()")
