"""The admin API: who may ask, what the filters mean, and that streams end. On the memory log, with a store of lists."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from millstream import Caller, Event, Refused, Service, Tx
from millstream.clock import SystemClock
from millstream.delivery.operations_api import (
    DeadLetter,
    DeadLetterFilter,
    DeadLetterRow,
    HeldKey,
    HeldRow,
    LaneRow,
    Moved,
    OutboxState,
    PositionRow,
)
from millstream.http.admin import AdminSystem, admin_app
from millstream.http.auth import Unauthenticated
from millstream.ids import Ids
from millstream.message import Record, decode_message, partition_of
from millstream.service.topics import topics_of
from millstream.transports.memory import MemoryTransport

TOKEN = "admin-token"
CLOCK = SystemClock()


class Placed(Event, topic="orders", key="order_id", version=2, upgrade={1: lambda old: {**old, "total": 0}}):
    order_id: str
    total: int


class ListOperations:
    """The operator's view of a service, over lists."""

    def __init__(self, service: str, letters: int = 0) -> None:
        self.service = service
        self.letters = [self.letter(n) for n in range(1, letters + 1)]
        self.calls: list[tuple[Any, ...]] = []

    def letter(self, number: int) -> DeadLetterRow:
        return DeadLetterRow(
            service=self.service, id=number, subscription="s", topic="orders", partition=0, position=number, key="k",
            tenant=None, message_id=f"m{number}", source="gateway", type="Placed", reason="ValueError: no", attempts=8,
            dead_since_us=number, holds_lane=True,
        )  # fmt: skip

    async def lanes(self, *, subscription: Any = None, key: Any = None, state: Any = None, limit: int = 100) -> Any:
        self.calls.append(("lanes", subscription, key, state, limit))
        return [LaneRow(self.service, "s", "orders", 0, "k", None, "held", 2, 8, None, 5, "ValueError: no")]

    async def positions(self, *, subscription: str | None = None) -> list[PositionRow]:
        return [PositionRow(self.service, "s", "orders", 0, 1, "worker", 3, 9, 2, 1)]

    def _meant(self, letters: DeadLetterFilter) -> list[DeadLetterRow]:
        self.calls.append(("filter", letters))
        return [row for row in self.letters if row.id > letters.after_id and (not letters.ids or row.id in letters.ids)]

    async def dead_letters(self, letters: DeadLetterFilter, *, limit: int = 100) -> list[DeadLetterRow]:
        return self._meant(letters)[:limit]

    async def dead_letter(self, letter_id: int) -> DeadLetter | None:
        found = [row for row in self.letters if row.id == letter_id]
        return DeadLetter(found[0], '{"id":"m1"}', "Traceback …", 2) if found else None

    async def redrive(
        self, letters: DeadLetterFilter, *, dry_run: bool = False, edit: bytes | None = None, rate: float | None = None,
        limit: int = 500,
    ) -> Moved:  # fmt: skip
        self.calls.append(("redrive", dry_run, edit, rate))
        return await self.drop(letters, dry_run=dry_run, limit=limit)

    async def drop(self, letters: DeadLetterFilter, *, dry_run: bool = False, limit: int = 500) -> Moved:
        meant = self._meant(letters)
        ids = tuple(row.id for row in meant[:limit])
        if dry_run:
            return Moved(len(meant), 0, len(meant), ids)
        self.letters = [row for row in self.letters if row.id not in ids]
        return Moved(len(meant), len(ids), len(meant) - len(ids), ids)

    async def outbox(self) -> OutboxState:
        return OutboxState(self.service, 3, 7, 0, None, (HeldKey("orders", "k", 11, "too large", 1, 2),))

    async def held_row(self, topic: str, key: str) -> HeldRow | None:
        return HeldRow(HeldKey(topic, key, 11, "too large", 1, 2), "{}") if key == "k" else None

    async def free_key(self, topic: str, key: str) -> None:
        if key != "k":
            raise Refused(f"key {key!r} is not held")
        self.calls.append(("free", topic, key))

    async def edit_row(self, topic: str, key: str, row_id: int, data: bytes) -> None:
        self.calls.append(("edit", topic, key, row_id, data))

    async def drop_row(self, topic: str, key: str, row_id: int) -> None:
        self.calls.append(("drop", topic, key, row_id))

    async def skip(self, subscription: str, partition: int, to: int) -> int:
        return 1


class World:
    """An admin application with what it works on, and a way to call it without a socket."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.orders = ListOperations("orders", letters=5)
        self.payments = ListOperations("payments", letters=2)
        self.transport = transport
        self.stopping = asyncio.Event()
        service = Service("orders")
        service.emits(Placed)

        @service.on(Placed, name="s")
        async def handle(event: Placed, tx: Tx) -> None: ...

        self.system = AdminSystem(
            operations={"payments": self.payments, "orders": self.orders},
            transport=transport,
            topics=topics_of([service]),
            clock=CLOCK,
            ids=Ids(),
            verify=self._verify,
            admin_token=TOKEN,
            stopping=self.stopping,
        )
        self.app = admin_app(self.system)

    async def _verify(self, token: str) -> Caller:
        if token not in ("operator", "customer"):
            raise Unauthenticated("the token's signature or form is not valid")
        return Caller(token, roles=(token,))

    async def call(
        self, method: str, path: str, body: object = None, *, token: str | None = TOKEN, client: str = "127.0.0.1",
        gone: asyncio.Event | None = None, on_line: Any = None,
    ) -> tuple[int, Any]:  # fmt: skip
        path, _, query = path.partition("?")
        headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        scope = {
            "type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": headers,
            "client": (client, 1), "root_path": "",
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        body_sent = False

        async def receive() -> dict[str, Any]:
            nonlocal body_sent
            if not body_sent:
                body_sent = True
                return {"type": "http.request", "body": b"" if body is None else msgspec.json.encode(body)}
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)
            if on_line and message.get("body"):
                on_line(message["body"])

        async with asyncio.timeout(10):
            await self.app(scope, receive, send)
        content = b"".join(m.get("body", b"") for m in sent[1:])
        kind = dict(sent[0]["headers"])[b"content-type"]
        if kind == b"application/x-ndjson":
            return sent[0]["status"], [msgspec.json.decode(line) for line in content.splitlines()]
        return sent[0]["status"], msgspec.json.decode(content) if b"json" in kind else content

    async def publish(self, key: str, n: int = 1) -> None:
        for index in range(n):
            status, _ = await self.call(
                "POST",
                "/admin/publish",
                {"topic": "orders", "type": "Placed", "data": {"order_id": key, "total": index}},
            )
            assert status == 201


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with MemoryTransport() as transport:
        await transport.provision("orders", 4)
        yield World(transport)


# -- who may ask -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "client", "status"),
    [
        (TOKEN, "127.0.0.1", 200),
        (TOKEN, "::1", 200),
        ("operator", "127.0.0.1", 200),
        ("customer", "127.0.0.1", 403),
        ("forged", "127.0.0.1", 401),
        (None, "127.0.0.1", 401),
        (TOKEN, "10.0.0.7", 403),
        ("operator", "10.0.0.7", 403),
    ],
)
async def test_only_an_operator_on_this_machine_may_ask(
    world: World, token: str | None, client: str, status: int
) -> None:
    for method, path in [("GET", "/admin/lanes"), ("GET", "/admin/topics"), ("GET", "/admin/outbox")]:
        assert (await world.call(method, path, token=token, client=client))[0] == status


async def test_without_an_admin_token_the_empty_one_is_not_accepted(world: World) -> None:
    world.app = admin_app(AdminSystem(**{**vars(world.system), "admin_token": ""}))

    assert (await world.call("GET", "/admin/topics", token=None))[0] == 401
    assert (await world.call("GET", "/admin/topics", token=TOKEN))[0] == 401


async def test_other_machines_may_ask_when_the_settings_say_so(world: World) -> None:
    world.app = admin_app(AdminSystem(**{**vars(world.system), "beyond_loopback": True}))

    assert (await world.call("GET", "/admin/topics", client="10.0.0.7"))[0] == 200


# -- lanes and outbox ------------------------------------------------------------------------------------------------


async def test_lanes_come_with_positions_and_the_end_of_the_log(world: World) -> None:
    key = next(k for k in map(str, range(99)) if partition_of(k, 4) == 0)
    await world.publish(key, 3)

    status, body = await world.call("GET", "/admin/lanes?service=orders&state=held&limit=5")

    assert status == 200
    assert [lane["key"] for lane in body["lanes"]] == ["k"]
    assert (body["positions"][0]["position"], body["positions"][0]["latest"]) == (1, 3)
    assert world.orders.calls == [("lanes", None, None, "held", 5)]


async def test_an_unknown_service_and_an_unknown_parameter_are_named(world: World) -> None:
    assert await world.call("GET", "/admin/lanes?service=nope") == (
        404,
        {
            "type": "about:blank",
            "title": "Not Found",
            "status": 404,
            "detail": "no service 'nope' runs here; there are: orders, payments",
        },
    )
    status, body = await world.call("GET", "/admin/lanes?servce=orders")
    assert (status, "unknown field `servce`" in body["detail"]) == (422, True)


async def test_a_position_is_skipped_on_one_service(world: World) -> None:
    body = {"service": "orders", "subscription": "s", "partition": 0, "to": 9}

    assert await world.call("POST", "/admin/lanes/skip", body) == (200, {"from": 1, "to": 9})


async def test_the_outbox_shows_held_keys_and_lets_them_go(world: World) -> None:
    status, body = await world.call("GET", "/admin/outbox")
    assert (status, [o["service"] for o in body["outbox"]]) == (200, ["orders", "payments"])
    assert body["outbox"][0]["held"][0]["reason"] == "too large"
    assert (await world.call("GET", "/admin/outbox/orders/held?topic=orders&key=k"))[1]["message"] == "{}"
    assert (await world.call("GET", "/admin/outbox/orders/held?topic=orders&key=x"))[0] == 404

    key = {"service": "orders", "topic": "orders", "key": "k"}
    assert (await world.call("POST", "/admin/outbox", {**key, "action": "free"}))[0] == 200
    assert (await world.call("POST", "/admin/outbox", {**key, "action": "drop", "row_id": 11}))[0] == 200
    assert (await world.call("POST", "/admin/outbox", {**key, "action": "edit", "row_id": 11, "data": {"a": 1}}))[
        0
    ] == 200
    assert world.orders.calls == [
        ("free", "orders", "k"),
        ("drop", "orders", "k", 11),
        ("edit", "orders", "k", 11, b'{"a":1}'),
    ]
    for refused in ({**key, "action": "drop"}, {**key, "action": "edit", "row_id": 11}, {**key, "action": "burn"}):
        assert (await world.call("POST", "/admin/outbox", refused))[0] == 422
    assert (await world.call("POST", "/admin/outbox", {**key, "key": "x", "action": "free"}))[0] == 409


# -- dead letters ----------------------------------------------------------------------------------------------------


async def test_dead_letters_are_paged_over_all_services(world: World) -> None:
    seen: list[str] = []
    path = "/admin/dlq?limit=3"
    while True:
        status, body = await world.call("GET", path)
        assert status == 200
        seen += [letter["id"] for letter in body["dead_letters"]]
        if body["next"] is None:
            break
        path = f"/admin/dlq?limit=3&after={body['next']}"

    assert seen == [*(f"orders:{n}" for n in range(1, 6)), "payments:1", "payments:2"]


async def test_filters_reach_the_store_and_ages_become_moments(world: World) -> None:
    before = CLOCK.now_us()
    await world.call("GET", "/admin/dlq?service=orders&subscription=s&key=k&reason=Value&older=1h&type=Placed")
    (_, letters) = world.orders.calls[-1]

    assert (letters.subscription, letters.key, letters.reason, letters.type) == ("s", "k", "Value", "Placed")
    assert letters.before_us == pytest.approx(before - 3_600_000_000, abs=5_000_000)
    assert letters.after_us is None
    assert (await world.call("GET", "/admin/dlq?older=soon"))[0] == 422


async def test_one_dead_letter_is_shown_with_its_message(world: World) -> None:
    status, body = await world.call("GET", "/admin/dlq/orders:2")

    assert (status, body["id"], body["behind"], body["message"]) == (200, "orders:2", 2, '{"id":"m1"}')
    assert (await world.call("GET", "/admin/dlq/orders:99"))[0] == 404
    assert (await world.call("GET", "/admin/dlq/nope:1"))[0] == 404
    for wrong in ("17", "orders:x", ":1", "orders:" + "9" * 30):
        assert (await world.call("GET", f"/admin/dlq/{wrong}"))[0] == 422


async def test_redrive_moves_by_id_by_filter_and_up_to_a_limit(world: World) -> None:
    status, body = await world.call("POST", "/admin/dlq/redrive", {"ids": ["orders:2", "payments:1"], "rate": 10})
    assert (status, body) == (
        200,
        {"matched": 2, "moved": 2, "remaining": 0, "ids": ["orders:2", "payments:1"], "dry_run": False},
    )
    assert ("redrive", False, None, 10.0) in world.orders.calls

    _, dry = await world.call("POST", "/admin/dlq/redrive", {"all": True, "dry_run": True})
    assert (dry["matched"], dry["moved"], len(dry["ids"])) == (5, 0, 5)
    _, part = await world.call("POST", "/admin/dlq/redrive", {"all": True, "limit": 4})
    assert (part["matched"], part["moved"], part["remaining"]) == (5, 4, 1)
    _, rest = await world.call("POST", "/admin/dlq/redrive", {"reason": "Value"})
    assert (rest["moved"], rest["remaining"]) == (1, 0)


async def test_a_letter_behind_the_limit_is_counted_and_not_dropped(world: World) -> None:
    _, body = await world.call("POST", "/admin/dlq/drop", {"all": True, "limit": 5})

    assert (body["matched"], body["moved"], body["remaining"]) == (7, 5, 2)
    assert len(world.payments.letters) == 2


async def test_everything_must_be_asked_for_in_words(world: World) -> None:
    for body in ({}, {"dry_run": True}, {"limit": 5}):
        for action in ("redrive", "drop"):
            status, problem = await world.call("POST", f"/admin/dlq/{action}", body)
            assert (status, problem["detail"]) == (422, 'name ids or conditions, or say "all": true')
    assert await world.call("POST", "/admin/dlq/drop", {"ids": []}) == (
        200,
        {"matched": 0, "moved": 0, "remaining": 0, "ids": [], "dry_run": False},
    )
    assert len(world.orders.letters) == 5


async def test_an_edit_is_for_one_letter(world: World) -> None:
    edit = {"edit": {"order_id": "1"}}

    assert (await world.call("POST", "/admin/dlq/redrive", {"ids": ["orders:1"], **edit}))[0] == 200
    assert ("redrive", False, b'{"order_id":"1"}', None) in world.orders.calls
    for body in ({"all": True, **edit}, {"ids": ["orders:1", "orders:2"], **edit}, {"ids": ["orders:1"], "rate": 0}):
        assert (await world.call("POST", "/admin/dlq/redrive", body))[0] == 422
    assert (await world.call("POST", "/admin/dlq/drop", {"ids": ["orders:1"], **edit}))[0] == 422


# -- the log ---------------------------------------------------------------------------------------------------------


async def test_topics_say_who_writes_and_who_reads(world: World) -> None:
    _, body = await world.call("GET", "/admin/topics")

    (topic,) = body["topics"]
    assert (topic["topic"], topic["provisioned"], len(topic["partitions"])) == ("orders", True, 4)
    assert (topic["events"], topic["publishers"], topic["subscriptions"]) == (["Placed.v2"], ["orders"], ["orders/s"])


async def test_publishing_takes_the_key_from_the_event_and_checks_the_data(world: World) -> None:
    event = {"topic": "orders", "type": "Placed", "data": {"order_id": "o1", "total": 5}}
    status, body = await world.call("POST", "/admin/publish", event)

    assert (status, body["key"], body["partition"]) == (201, "o1", partition_of("o1", 4))
    (record,) = await world.transport.read("orders", body["partition"], 0).next(10)
    message = decode_message(record.value)
    assert (message.id, message.source, message.dataversion) == (body["id"], "/operator", 2)

    old = {**event, "version": 1, "data": {"order_id": "o1"}}
    assert (await world.call("POST", "/admin/publish", old))[0] == 201
    for wrong, says in [
        ({**event, "data": {"order_id": "o1"}}, "missing required field `total`"),
        ({**event, "key": "o2"}, "is ordered by 'order_id', which is 'o1' here"),
        ({**event, "type": "Plced"}, "its events: Placed"),
        ({**event, "extra": 1}, "unknown field"),
    ]:
        status, problem = await world.call("POST", "/admin/publish", wrong)
        assert (status, says in problem["detail"]) == (422, True), problem
    assert (await world.call("POST", "/admin/publish", {**event, "type": "Other", "unchecked": True}))[0] == 201
    assert (await world.call("POST", "/admin/publish", {**event, "topic": "none"}))[0] == 404


async def test_tail_without_follow_ends_where_the_topic_ended(world: World) -> None:
    await world.publish("a", 3)
    await world.publish("b", 1)
    await world.transport.publish("orders", 0, [Record(b"no message")])

    _, lines = await world.call("GET", "/admin/tail?topic=orders&from=earliest&follow=false")
    assert len(lines) == 5
    assert [line["message"]["data"]["total"] for line in lines if line["key"] == "a"] == [0, 1, 2]
    assert [line["size_bytes"] for line in lines if "undecodable" in line] == [10]
    _, of_key = await world.call("GET", "/admin/tail?topic=orders&from=earliest&follow=false&key=b")
    assert [line["key"] for line in of_key] == ["b"]
    _, limited = await world.call("GET", "/admin/tail?topic=orders&from=earliest&limit=2")
    assert len(limited) == 2
    _, typed = await world.call("GET", "/admin/tail?topic=orders&from=earliest&follow=false&type=Other")
    assert typed == []
    assert (await world.call("GET", "/admin/tail?topic=orders&from=now&follow=false"))[1] == []
    assert (await world.call("GET", "/admin/tail?topic=none"))[0] == 404
    assert (await world.call("GET", "/admin/tail?topic=orders&from=9"))[0] == 422


@pytest.mark.parametrize("end", ["reader gone", "process stops"])
async def test_a_followed_tail_ends_with_its_reader_or_the_process(world: World, end: str) -> None:
    gone, first = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tail = group.create_task(
            world.call("GET", "/admin/tail?topic=orders&from=earliest", gone=gone, on_line=lambda _: first.set())
        )
        await world.publish("a", 1)
        await first.wait()
        (gone if end == "reader gone" else world.stopping).set()
        _, lines = await tail

    assert [line["key"] for line in lines] == ["a"]
