"""Django: `atomic` blocks publish, and need nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import DatabaseError, transaction
from django.test import TestCase
from django.test.utils import CaptureQueriesContext
from millstream import Misconfigured
from millstream.adoption import Inbox, Outbox
from millstream.errors import MillstreamError
from millstream.message import Message, encode_message

from .application import Cancelled, Database, Placed
from .shop_django import atomic, django_connection

outbox = Outbox("shop")


@pytest.fixture
def connection(either: Database) -> Iterator[Any]:
    with django_connection(either.url) as connection:
        yield connection


def insert(connection: Any, order: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO orders VALUES (%s)", [order])


def in_a_block(connection: Any, and_then: Callable[[], object]) -> None:
    """An order and its event."""
    with atomic(connection):
        insert(connection, "a")
        outbox.publish(Placed("a"), connection=connection)
        and_then()


def test_an_event_leaves_with_the_outermost_atomic_block(either: Database, connection: Any) -> None:
    with CaptureQueriesContext(connection) as captured:
        with atomic(connection):
            with atomic(connection):
                outbox.publish(Placed("a"), connection=connection)
            insert(connection, "a")
            outbox.publish(Placed("b"), connection=connection)
    assert (either.orders(), either.published()) == (["a"], ["a", "b"])
    statements = [query["sql"] for query in captured.captured_queries]
    business = next(n for n, sql in enumerate(statements) if "INTO orders" in sql)
    assert business < next(n for n, sql in enumerate(statements) if "millstream_outbox" in sql)
    # The connection is used again, by blocks that publish and by blocks that do not.
    with atomic(connection):
        insert(connection, "c")
    with atomic(connection):
        outbox.publish(Placed("d"), connection=connection)
    assert (either.orders(), either.published()) == (["a", "c"], ["a", "b", "d"])


def test_what_rolls_back_takes_its_events_along(either: Database, connection: Any) -> None:
    with suppress(Cancelled), atomic(connection):
        insert(connection, "a")
        outbox.publish(Placed("a"), connection=connection)
        raise Cancelled
    with atomic(connection):
        insert(connection, "b")
        outbox.publish(Placed("b"), connection=connection)
        with suppress(Cancelled), atomic(connection):
            outbox.publish(Placed("gone"), connection=connection)
            with atomic(connection):
                outbox.publish(Placed("gone, released inside"), connection=connection)
            raise Cancelled
        with atomic(connection):
            outbox.publish(Placed("c"), connection=connection)
    with atomic(connection):
        outbox.publish(Placed("set back"), connection=connection)
        transaction.set_rollback(True, using=connection.alias)
    assert (either.orders(), either.published()) == (["b"], ["b", "c"])


def test_events_that_cannot_be_written_keep_nothing_of_their_transaction(either: Database, connection: Any) -> None:
    with pytest.raises(DatabaseError, match="millstream_outbox"):
        in_a_block(connection, lambda: connection.cursor().execute("DROP TABLE millstream_outbox"))
    with atomic(connection):
        insert(connection, "b")
        outbox.publish(Placed("b"), connection=connection)
    assert (either.orders(), either.published()) == (["b"], ["b"])


def test_an_error_that_is_not_the_databases_keeps_nothing_either(
    either: Database, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_a_block(connection, lambda: monkeypatch.setattr("millstream.adoption.callers.django._write", broken))
    monkeypatch.undo()
    with atomic(connection):
        insert(connection, "b")
    assert (either.orders(), either.published()) == (["b"], [])


def test_hooks_behind_the_commit_still_run_and_find_the_events_written(either: Database, connection: Any) -> None:
    seen: list[list[str]] = []
    with atomic(connection):
        transaction.on_commit(lambda: seen.append(either.published()), using=connection.alias)
        outbox.publish(Placed("a"), connection=connection)
    assert seen == [["a"]]


def test_outside_of_a_block_and_on_other_databases_it_is_refused(either: Database, connection: Any) -> None:
    with pytest.raises(Misconfigured, match="atomic"):
        outbox.publish(Placed("a"), connection=connection)
    with atomic(connection):
        vendor, type(connection).vendor = type(connection).vendor, "mysql"
        try:
            with pytest.raises(Misconfigured, match="Django on mysql"):
                outbox.publish(Placed("a"), connection=connection)
        finally:
            type(connection).vendor = vendor
    assert either.published() == []


def test_a_commit_that_somebody_replaced_is_found_out(either: Database, connection: Any) -> None:
    with pytest.raises(MillstreamError, match="is lost"):
        in_a_block(connection, lambda: vars(connection).pop("commit"))
    assert either.published() == []


def test_djangos_own_way_of_testing_hooks_writes_the_events(either: Database, connection: Any) -> None:
    """A `TestCase` never commits; `captureOnCommitCallbacks(execute=True)` runs the hooks inside of its transaction."""
    with suppress(Cancelled), atomic(connection):
        with TestCase.captureOnCommitCallbacks(using=connection.alias, execute=True):
            outbox.publish(Placed("a"), connection=connection)
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM millstream_outbox")
            assert cursor.fetchone()[0] == 1
        raise Cancelled
    assert either.published() == []


def test_the_inbox_says_once_that_a_message_is_new(either: Database, connection: Any) -> None:
    inbox = Inbox()
    message = encode_message(Message("m1", "/bank", "Paid", time="2026-01-01T00:00:00Z"))
    with suppress(Cancelled), atomic(connection):
        assert inbox.accept(message, subscription="confirm", connection=connection)
        raise Cancelled
    for is_new in (True, False):
        with atomic(connection):
            assert inbox.accept(message, subscription="confirm", connection=connection) is is_new
    with atomic(connection):
        assert inbox.accept(message, subscription="another", connection=connection)
