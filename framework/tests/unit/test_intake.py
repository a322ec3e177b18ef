"""Foreign queues are taken in: durable here first, acknowledged then, once however often they are delivered."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millstream import Event, Service, Tx
from millstream.binary_mode import STRUCTURED
from millstream.clock import SystemClock
from millstream.delivery import intake
from millstream.delivery.intake import record_of
from millstream.delivery.prepared import prepare_one
from millstream.errors import Misconfigured, StoreUnavailable, TransportUnavailable
from millstream.ids import Ids
from millstream.message import Message, Record, encode_message, event_type
from millstream.ports.instrumentation import Field, Silent
from millstream.ports.intake import ForeignMessage
from millstream.postgresql.values import encoded
from millstream.runtime.runtime import Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.testing.harness import Harness
from millstream.transports.memory import MemoryTransport


class LegacyOrder(Event, topic="legacy", key="order"):
    order: str
    total: int


def shop(folder: Path) -> Service:
    (folder / "0001_seen.sql").write_text("CREATE TABLE seen (n INTEGER PRIMARY KEY, key TEXT, total INTEGER)")
    service = Service("shop", migrations=str(folder))
    service.take_in(LegacyOrder, name="legacy-orders")

    @service.on(LegacyOrder, name="keep", after_dead_letter="go_on")
    async def keep(event: LegacyOrder, tx: Tx) -> None:
        await tx.execute("INSERT INTO seen (key, total) VALUES (?, ?)", event.order, event.total)

    return service


class Queue:
    """A queue of somebody else: gives its messages again until they are acknowledged."""

    def __init__(self, *bodies: bytes) -> None:
        self.waiting = deque(ForeignMessage(body, identity=str(n)) for n, body in enumerate(bodies))
        self.opened = 0
        self.acknowledged = 0
        self.lost_acknowledgements = 0
        self.failures: deque[Exception] = deque()
        self.news = asyncio.Event()
        self.asked = asyncio.Event()
        self.watch: Callable[[], Any] = lambda: None

    async def __aenter__(self) -> Self:
        self.opened += 1
        self._given = 0
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        if self.failures:
            raise self.failures.popleft()
        while self._given >= len(self.waiting):
            self.asked.set()
            self.news.clear()
            await self.news.wait()
        found = list(self.waiting)[self._given : self._given + limit]
        self._given += len(found)
        return found

    async def acknowledge(self) -> None:
        self.watch()
        if self.lost_acknowledgements:
            self.lost_acknowledgements -= 1
            raise TransportUnavailable("the connection was lost")
        for _ in range(self._given):
            self.waiting.popleft()
            self.acknowledged += 1
        self._given = 0


class Running:
    """The service with a queue, on the system's clock."""

    def __init__(self, folder: Path, queue: Queue) -> None:
        self.queue = queue
        self.clock = SystemClock()
        self.store = SqliteStore(folder / "shop.db", clock=self.clock, synchronous="OFF")
        self.composition = Composition(
            open_store=lambda _: self.store,
            transport=MemoryTransport(),
            data=folder,
            clock=self.clock,
            open_intake=lambda _: queue,
        )

    async def until(self, condition: Callable[[], Any], seconds: float = 15.0) -> None:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - what is waited for happens in the store
                await asyncio.sleep(0.002)

    async def totals(self) -> list[int]:
        return [row[0] for row in await self.store.query("SELECT total FROM seen ORDER BY n")]


def bodies(*totals: int) -> list[bytes]:
    return [b'{"order": "o-1", "total": %d}' % total for total in totals]


async def test_messages_are_durable_before_they_are_acknowledged(tmp_path: Path) -> None:
    queue = Queue(*bodies(*range(500)))
    running = Running(tmp_path, queue)
    left: list[int] = []

    def look() -> None:  # at the moment of the acknowledgement, from another connection
        rows = running.store.file.reader.execute(
            "SELECT (SELECT COUNT(*) FROM millstream_outbox) + (SELECT COUNT(*) FROM millstream_inbox)"
        ).fetchall()
        left.append(int(str(rows[0][0])))

    queue.watch = look
    async with Runtime([shop(tmp_path)], running.composition):

        async def all_seen() -> bool:
            return await running.totals() == list(range(500))

        await running.until(all_seen)
    assert queue.acknowledged == 500
    assert left
    assert all(left), "the rows were there when the queue was told to forget them"


async def test_a_message_that_comes_again_is_handled_once(tmp_path: Path) -> None:
    queue = Queue(*bodies(1, 2, 3))
    queue.lost_acknowledgements = 2
    running = Running(tmp_path, queue)
    async with Runtime([shop(tmp_path)], running.composition):

        async def acknowledged() -> bool:
            return queue.acknowledged == 3

        await running.until(acknowledged)
        queue.waiting.append(ForeignMessage(bodies(4)[0], identity="another"))
        queue.news.set()

        async def fourth() -> bool:
            return 4 in await running.totals()

        await running.until(fourth)
        assert await running.totals() == [1, 2, 3, 4]
    assert queue.opened == 3, "after each lost acknowledgement the queue was opened again"


async def test_a_queue_that_is_away_or_not_there_yet_is_asked_again(tmp_path: Path) -> None:
    queue = Queue(*bodies(1))
    queue.failures.extend([TransportUnavailable("gone"), Misconfigured("no such queue")])
    running = Running(tmp_path, queue)
    async with Runtime([shop(tmp_path)], running.composition):

        async def seen() -> bool:
            return await running.totals() == [1]

        await running.until(seen)


async def test_while_the_store_is_away_the_queue_is_not_asked_to_deliver_again(tmp_path: Path) -> None:
    """Some engines drop what was given back a few times."""
    queue = Queue(*bodies(1, 2, 3))
    running = Running(tmp_path, queue)
    async with Runtime([shop(tmp_path)], running.composition):
        outage = Outage(running.store, tries=3)
        queue.waiting.append(ForeignMessage(bodies(4)[0], identity="another"))
        outage.begin()
        queue.news.set()
        await running.until(outage.over)

        async def all_seen() -> bool:
            return sorted(await running.totals()) == [1, 2, 3, 4]

        await running.until(all_seen)
    assert (queue.opened, queue.acknowledged) == (1, 4)


async def test_a_commit_that_counted_unseen_is_repeated_under_the_same_ids(tmp_path: Path) -> None:
    """A message without an identity too: it is in hand, so that everybody knows it for the same."""
    queue = Queue()
    running = Running(tmp_path, queue)
    async with Runtime([shop(tmp_path)], running.composition):
        await queue.asked.wait()
        outage = Outage(running.store, tries=2, commits=True)
        queue.waiting.append(ForeignMessage(bodies(7)[0]))
        outage.begin()
        queue.news.set()
        await running.until(outage.over)
        queue.waiting.append(ForeignMessage(bodies(8)[0]))
        queue.news.set()

        async def last() -> bool:
            return 8 in await running.totals()

        await running.until(last)
        assert await running.totals() == [7, 8]


async def test_while_the_log_is_away_the_queue_keeps_what_the_outbox_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "OUTBOX_ROWS", 300)
    monkeypatch.setattr(intake, "LOOK_EVERY", 100)
    queue = Queue(*bodies(*range(2_000)))
    waits: list[str] = []

    class Listening(Silent):
        def log(self, level: str, event: str, **fields: Field) -> None:
            waits.extend(str(fields["error"]) for _ in range(event == "intake_waits"))

    running, log = Running(tmp_path, queue), MemoryTransport()
    running.composition = replace(running.composition, transport=log, instrumentation=Listening())

    async def away(topic: str, partition: int, records: Sequence[Record]) -> int:
        raise TransportUnavailable("the log is away")

    outage = pytest.MonkeyPatch()
    outage.setattr(log, "publish", away)
    async with Runtime([shop(tmp_path)], running.composition):

        async def full() -> bool:
            return bool(waits)

        await running.until(full)
        assert 300 <= queue.acknowledged <= 300 + 100 + intake.BATCH
        assert "outbox" in waits[0]
        outage.undo()

        async def all_seen() -> bool:
            return sorted(await running.totals()) == list(range(2_000))

        await running.until(all_seen, seconds=60)


async def test_stopping_while_the_store_is_away_leaves_the_messages_to_the_queue(tmp_path: Path) -> None:
    queue = Queue()
    running = Running(tmp_path, queue)
    async with asyncio.timeout(15):
        async with Runtime([shop(tmp_path)], running.composition):
            await queue.asked.wait()
            outage = Outage(running.store, tries=1_000_000)
            outage.begin()
            queue.waiting.append(ForeignMessage(bodies(1)[0], identity="1"))
            queue.news.set()
            await outage.tried.wait()
    assert (queue.acknowledged, len(queue.waiting)) == (0, 1)


class Outage:
    """A store that is away for those who write to the outbox from outside of handlers. commits: it does the work, and the
    answer is lost."""

    def __init__(self, store: SqliteStore, tries: int, *, commits: bool = False) -> None:
        self._store = store
        self._left = tries
        self._commits = commits
        self._transact = store.transact
        self.tried = asyncio.Event()

    def begin(self) -> None:
        self._store.transact = self._refuse

    async def over(self) -> bool:
        return self._left == 0

    async def _refuse(self, work: Callable[..., Any]) -> Any:
        if self._left == 0 or "intake" not in work.__module__:
            return await self._transact(work)
        self._left -= 1
        self.tried.set()
        if self._commits:
            await self._transact(work)
        raise StoreUnavailable("the disk is full")


async def test_stopping_ends_the_wait_for_a_message(tmp_path: Path) -> None:
    queue = Queue()
    async with asyncio.timeout(10):
        async with Runtime([shop(tmp_path)], Running(tmp_path, queue).composition):
            await queue.asked.wait()
    assert queue.acknowledged == 0


async def test_an_intake_without_a_queue_names_the_fix(tmp_path: Path) -> None:
    composition = Composition(
        open_store=lambda name: SqliteStore(tmp_path / f"{name}.db", synchronous="OFF"),
        transport=MemoryTransport(),
        data=tmp_path,
    )
    with pytest.raises(Misconfigured, match="legacy-orders"):
        async with Runtime([shop(tmp_path)], composition):
            pass


def test_two_intakes_of_one_name_are_refused() -> None:
    service = Service("shop")
    service.take_in(LegacyOrder, name="a")
    with pytest.raises(Misconfigured, match="'a'"):
        service.take_in(LegacyOrder, name="a")


@pytest.fixture
async def ms(millstream: Callable[..., Harness], tmp_path: Path) -> Any:
    async with millstream(shop(tmp_path)) as harness:
        yield harness


async def test_what_fits_the_event_gets_its_key(ms: Harness) -> None:
    await ms.take_in("legacy-orders", ForeignMessage(b'{"order": "o-7", "total": 5}', key="another"))
    await ms.quiet()
    assert ms.published(LegacyOrder) == [LegacyOrder("o-7", 5)]
    (message,) = ms.messages("legacy")
    assert (message.subject, message.source) == ("o-7", "/shop/intake/legacy-orders")


async def test_a_cloudevents_message_keeps_its_own_envelope(ms: Harness) -> None:
    envelope = Message("e-1", "//erp", "LegacyOrder", data=msgspec.Raw(b'{"order": "o-1", "total": 1}'), subject="o-1")
    attributes = {"specversion": "1.0", "id": "e-2", "source": "//erp", "type": "LegacyOrder", "subject": "o-2"}
    await ms.take_in(
        "legacy-orders",
        ForeignMessage(encode_message(envelope), content_type=STRUCTURED),
        ForeignMessage(b'{"order": "o-2", "total": 2}', content_type="application/json", attributes=attributes),
    )
    await ms.quiet()
    assert {(m.id, m.source, m.subject) for m in ms.messages("legacy")} == {
        ("e-1", "//erp", "o-1"),
        ("e-2", "//erp", "o-2"),
    }
    assert sorted(await ms.rows("shop", "SELECT key, total FROM seen")) == [("o-1", 1), ("o-2", 2)]


@pytest.mark.parametrize(
    "message",
    [
        ForeignMessage(b"\xff\x00 no JSON", key="k"),
        ForeignMessage(b'{"order": 7}', key="k"),
        ForeignMessage(b"", key="k"),
        ForeignMessage(b"not an envelope", content_type=STRUCTURED, key="k"),
        ForeignMessage(b"[" * 100_000, key="k"),
        ForeignMessage(b'{"order": "o-\\u0000", "total": 1}'),
        ForeignMessage(b"{}", key="half \ud800", content_type="text/\ud800"),
        ForeignMessage(b"\xff", key="a\0b", identity="\ud800", content_type="text/\ud800"),
        ForeignMessage(b"{}", attributes={"specversion": "1.0", "id": "\ud800", "source": "a", "type": "LegacyOrder"}),
        ForeignMessage(b"{}", attributes={"specversion": "1.0", "id": "\0", "source": "a", "type": "LegacyOrder"}),
        ForeignMessage(b"{}", attributes={"specversion": "0.3"}),
        ForeignMessage(
            b'{"specversion": "1.0", "id": "a", "source": "b", "type": "LegacyOrder", "data_base64": "abc"}',
            content_type=STRUCTURED,
        ),
    ],
)
async def test_what_fits_nothing_becomes_a_dead_letter_and_holds_nobody_up(
    ms: Harness, message: ForeignMessage
) -> None:
    await ms.take_in("legacy-orders", message, ForeignMessage(b'{"order": "k", "total": 1}'))
    await ms.quiet()
    assert [letter[2] for letter in await ms.dead_letters("shop")] == ["undecodable"]
    assert await ms.rows("shop", "SELECT key, total FROM seen") == [("k", 1)]


_texts = st.text(st.characters(exclude_categories=()), max_size=12)
_bodies = st.one_of(
    st.binary(max_size=30),
    _texts.map(lambda key: json.dumps({"order": key, "total": 1}).encode()),
    _texts.map(
        lambda key: json.dumps({"specversion": "1.0", "id": "a", "source": "b", "type": "c", "subject": key}).encode()
    ),
)


@given(
    st.builds(
        ForeignMessage,
        _bodies,
        identity=st.none() | _texts,
        key=st.none() | _texts,
        content_type=st.sampled_from([None, STRUCTURED, "application/json"]) | _texts,
        attributes=st.dictionaries(_texts, _texts) | _texts.map(lambda text: {"specversion": "1.0", "subject": text}),
    )
)
def test_there_is_a_storable_record_for_every_message(message: ForeignMessage) -> None:
    """What no store takes would be delivered again and again, with everything behind it."""
    _, key, value = record_of(message, event_type(LegacyOrder), "/shop/intake/a", Ids(), 1_700_000_000_000_000)
    encoded((key, value))  # as PostgreSQL takes it, which is stricter than SQLite
    prepare_one(value, 1, {"LegacyOrder": event_type(LegacyOrder)}, {})
