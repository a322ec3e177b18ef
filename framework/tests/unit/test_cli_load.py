"""`millstream load` against a small server that keeps orders in a dict and can lose, double and stall on demand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import pytest
from millstream import Misconfigured
from millstream.cli.load.baskets import Basket, Line, method_of, parse_mix, read_baskets, repeat
from millstream.cli.load.command import Plan, Tokens, run_load
from millstream.cli.load.connection import Address, Connection, UnexpectedReply, build_request
from millstream.cli.load.pool import Lane, Unanswered
from millstream.cli.load.posting import build_requests, post_all
from millstream.cli.load.verdict import Verdict
from millstream.cli.output import progress

NOW = "2026-01-01T00:00:00.000000Z"


class Shop:
    """Orders in memory. Each fault is one way in which a system may be wrong."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.orders: dict[str, dict[str, Any]] = {}
        self.keys: dict[str, str] = {}
        self.requests = 0
        self.placed = 0
        self.url = ""

    # -- HTTP --------------------------------------------------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = head[0].split()
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.requests += 1
                if self.fault == "drops connections" and self.requests % 7 == 0:
                    writer.close()  # the work below is not done, and the client must ask again
                    return
                if self.fault == "busy" and self.requests % 5 == 0:
                    await self._send(writer, 503, {})
                    continue
                status, reply = self._answer(method, path, headers, body)
                if self.fault == "drops replies" and method == "POST" and self.requests % 9 == 0:
                    writer.close()  # done, but the client never learns it
                    return
                await self._send(writer, status, reply)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, status: int, reply: object) -> None:
        content = msgspec.json.encode(reply)
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        if self.fault == "slow bytes":
            for part in (head[:7], head[7:], content[:3], content[3:]):
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
        else:
            writer.write(head + content)
        await writer.drain()

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, object]:
        path, _, query = path.partition("?")
        parts = path.strip("/").split("/")
        options = dict(pair.split("=") for pair in query.split("&") if pair)
        match (method, *parts):
            case ("POST", "orders"):
                return self._place(headers["idempotency-key"], json.loads(body))
            case ("GET", "orders"):
                return 200, self._page(int(options["limit"]), options["after"])
            case ("GET", "orders", order_id) if order_id in self.orders:
                return 200, self.orders[order_id]["full"]
            case ("GET", "notifications"):
                return 200, self.orders[options["order"]]["notices"]
            case ("GET", "payments", payment_id):
                return 200, self.orders[payment_id[1:]]["payment"]
            case ("GET", "ledger", "trial-balance"):
                total = sum(order["full"]["total"] for order in self.orders.values())
                return 200, {"USD": {"debit": total, "credit": total + (self.fault == "unbalanced")}}
            case ("GET", "provider", "book"):
                entries = [order["book"] for order in self.orders.values() if order["book"]]
                half = len(entries) // 2
                return 200, (
                    {"entries": entries[half:], "next": ""}
                    if options["after"]
                    else {"entries": entries[:half], "next": "1"}
                )
            case _:
                return 404, {"detail": "nothing here"}

    # -- orders ------------------------------------------------------------------------------------------------------

    def _place(self, key: str, order: dict[str, Any]) -> tuple[int, object]:
        wrong = [n for n, line in enumerate(order["lines"]) if line["quantity"] < 1]
        if wrong and self.fault != "accepts anything":
            at = "lines" if self.fault == "names no line" else f"lines[{wrong[0]}].quantity"
            return 422, {"detail": "no", "errors": [{"at": at, "message": "must be at least 1"}]}
        known = self.keys.get(key)
        if known is None or self.fault == "forgets keys":
            known = self.keys[key] = f"o{self.placed}"
            self.placed += 1
            self.orders[known] = self._order(known, order)
        full = self.orders[known]["full"]
        reply = (201, {"id": known, "state": "PENDING", "total": full["total"]})
        if self.fault == "loses" and self.placed == 5:
            del self.orders[known]
        return reply

    def _order(self, order_id: str, order: dict[str, Any]) -> dict[str, Any]:
        total, number = order["total"], len(self.orders)
        declined = order["payment"]["method"] == "sim_declined"
        state = "FAILED" if declined else "CONFIRMED"
        notice = {"kind": f"order.{state.lower()}", "at": NOW}
        faulty = number == 3
        if faulty and self.fault == "never settles":
            state = "PENDING"
        told = 2 if faulty and self.fault == "tells twice" else int(not (faulty and self.fault == "tells nobody"))
        charges = 2 if faulty and self.fault == "charges twice" else int(not declined)
        captured = 0 if declined else total - (faulty and self.fault == "captures less")
        entry = {"key": f"p{order_id}", "status": "declined" if declined else "succeeded", "amount": total, "refunded": 0,
                 "charges": charges, "calls": 1}  # fmt: skip
        return {
            "full": {"id": order_id, "state": state, "total": total, "payment": {"id": f"p{order_id}", "state": "x"},
                     "history": [{"state": state, "at": NOW}]},
            "notices": [notice] * told,
            "payment": {"id": f"p{order_id}", "state": "FAILED" if declined else "SUCCESS", "amount": total,
                        "captured": captured, "refunded": 0},
            "book": None if faulty and self.fault == "never charged" else entry,
        }  # fmt: skip

    def _page(self, limit: int, after: str) -> list[dict[str, Any]]:
        newest = list(reversed(self.orders))
        start = newest.index(after) + 1 if after else 0
        return [{"id": order, "total": self.orders[order]["full"]["total"]} for order in newest[start : start + limit]]


@asynccontextmanager
async def running(shop: Shop) -> AsyncIterator[Shop]:
    server = await asyncio.start_server(shop.serve, "127.0.0.1", 0)
    async with server:
        shop.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield shop


def baskets(count: int = 60, wrong_every: int = 10) -> list[Basket]:
    found: list[Basket] = []
    for n in range(count):
        quantity = 0 if n % wrong_every == wrong_every - 1 else 1
        lines = (Line("p", 1, 0), Line("q", quantity, 100 + n))
        found.append(Basket(f"b{n}", "c1", "USD", lines, 100 + n))
    return found


async def load(
    fault: str = "", *, mix: str = "sim_ok", rate: float | None = None, patience: float = 0.6
) -> tuple[Verdict, Shop]:
    async with asyncio.timeout(30), running(Shop(fault)) as shop:
        plan = Plan(baskets(), parse_mix(mix), rate, 8, patience)
        return await run_load(shop.url, Tokens("client", "operator"), plan), shop


# -- the verdict over a whole run ------------------------------------------------------------------------------------


async def test_a_sound_system_passes() -> None:
    verdict, _ = await load(mix="sim_ok=3,sim_declined=1")

    assert verdict.passed, verdict.complaints
    assert (verdict.posted, verdict.accepted, verdict.refused) == (60, 54, 6)
    assert verdict.confirmed + verdict.failed == verdict.notified == 54
    assert 8 <= verdict.failed <= 20
    assert verdict.total_minor == sum(b.total for b in baskets() if not b.wrong_places)
    assert verdict.latency_ms.p50 <= verdict.latency_ms.p99
    assert list(verdict.line()) == [
        "posted", "accepted", "refused", "confirmed", "failed", "notified", "total_minor", "lost", "doubled",
        "orders_per_s", "latency_ms",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", ["busy", "drops connections", "drops replies", "slow bytes"])
async def test_what_is_repeated_with_its_key_is_neither_lost_nor_doubled(fault: str) -> None:
    verdict, _ = await load(fault)

    assert verdict.passed, verdict.complaints
    assert (verdict.accepted, verdict.refused) == (54, 6)
    assert bool(verdict.repeats) == (fault != "slow bytes")


@pytest.mark.parametrize(
    ("fault", "lost", "doubled", "says"),
    [
        ("loses", 1, 0, "answers 404"),
        ("never settles", 1, 0, "not settled: PENDING"),
        ("tells nobody", 1, 0, "nobody was told"),
        ("captures less", 1, 0, "captured"),
        ("never charged", 1, 0, "knows no charge"),
        ("tells twice", 0, 1, "told 2 times of order.confirmed"),
        ("charges twice", 0, 1, "was charged 2 times"),
        ("unbalanced", 0, 0, "the ledger does not balance: USD"),
        ("names no line", 0, 0, "the refusal names lines, wrong is lines[1]"),
        ("accepts anything", 0, 0, "was accepted although lines[1] is wrong"),
    ],
)
async def test_each_fault_is_found(fault: str, lost: int, doubled: int, says: str) -> None:
    verdict, _ = await load(fault)

    assert not verdict.passed
    assert (verdict.lost, verdict.doubled) == (lost, doubled), verdict.complaints
    assert any(says in complaint for complaint in verdict.complaints), verdict.complaints


async def test_an_order_that_no_reply_named_is_a_double() -> None:
    async with running(Shop()) as shop:
        shop.orders["ghost"] = shop._order("ghost", {"total": 5, "lines": [], "payment": {"method": "sim_ok"}})
        plan = Plan(baskets(10), parse_mix("sim_ok"), None, 2, 0.5)

        verdict = await run_load(shop.url, Tokens("client", "operator"), plan)
        shared = await run_load(shop.url, Tokens("operator", "operator"), plan)

    assert (verdict.doubled, verdict.complaints) == (1, ("doubled: order ghost exists, but no reply has named it",))
    assert not any("ghost" in complaint for complaint in shared.complaints)


async def test_a_rate_is_kept_and_delay_counts_from_when_a_request_was_due() -> None:
    async with running(Shop()) as shop:
        address = Address.of(shop.url)
        requests = build_requests(address, "t", baskets(40), parse_mix("sim_ok"), "run")
        with progress("x", None) as bar:
            posting = await post_all(address, requests, 4, 200, 1.0, bar)

    assert posting.seconds == pytest.approx(39 / 200, rel=0.5)
    assert len(posting.latencies) == 40
    assert len({request.split(b"idempotency-key: ")[1][:11] for request in requests}) == 40


# -- the client ------------------------------------------------------------------------------------------------------


async def _raw(reply: bytes, work: Callable[[Address], Awaitable[Any]]) -> Any:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, asyncio.timeout(10):
        return await work(Address("127.0.0.1", server.sockets[0].getsockname()[1]))


@pytest.mark.parametrize(
    ("reply", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
        (b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n", 204, b""),
        (b"HTTP/1.1 422 No\r\nA: b\r\nCONTENT-LENGTH:3\r\nConnection: close\r\n\r\nbad", 422, b"bad"),
    ],
)
async def test_replies_are_read(reply: bytes, status: int, body: bytes) -> None:
    async def work(address: Address) -> None:
        connection = await Connection.open(address)
        found = await connection.request(build_request(address, "GET", "/", "t"))
        assert (found.status, found.body) == (status, body)
        assert connection.usable == (b"close" not in reply.lower())
        connection.abort()
        await asyncio.sleep(0)

    await _raw(reply, work)


@pytest.mark.parametrize(
    "reply",
    [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 xx\r\n\r\n", b"SSH-2.0 hello\r\n\r\n"],
)
async def test_what_is_not_understood_is_an_error_and_no_hang(reply: bytes) -> None:
    async def work(address: Address) -> None:
        connection = await Connection.open(address)
        with pytest.raises(UnexpectedReply):
            await connection.request(build_request(address, "GET", "/", "t"))

    await _raw(reply, work)


async def test_a_lane_gives_up_after_its_patience() -> None:
    async def work(address: Address) -> None:
        lane = Lane(address, 0.2)
        with pytest.raises(Unanswered, match="closed the connection"):
            await lane.send(build_request(address, "GET", "/", "t"))
        assert lane.repeats > 1
        lane.close()

    await _raw(b"", work)


async def test_a_request_that_hangs_is_dropped() -> None:
    arrived = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        arrived.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    async with server, asyncio.timeout(10), asyncio.TaskGroup() as group:
        lane = Lane(Address("127.0.0.1", server.sockets[0].getsockname()[1]), 0.0)

        async def send() -> None:
            with pytest.raises(Unanswered):
                await lane.send(build_request(Address("127.0.0.1", 1), "GET", "/", "t"))

        sending = group.create_task(send())
        await arrived.wait()
        now = perf_counter()
        lane.drop_if_stuck(now + 29)
        await asyncio.sleep(0)
        assert not sending.done()
        lane.drop_if_stuck(now + 31)
        await sending


# -- baskets ---------------------------------------------------------------------------------------------------------


def test_a_basket_says_which_places_are_wrong() -> None:
    sound = Basket("1", "c", "USD", (Line("p", 1, 0), Line("q", 1, 5)), 5)
    assert sound.wrong_places == ()
    assert msgspec.structs.replace(sound, total=6).wrong_places == ("total",)
    assert Basket("1", "c", "USD", (Line("p", 1, 0),), 0).wrong_places == ("total",)
    assert Basket("1", "c", "USD", (Line("p", 1, 5), Line("q", 0, -1)), 4).wrong_places == ("lines[1]",)


def test_a_file_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "b.jsonl"
    with pytest.raises(Misconfigured, match="No such file"):
        read_baskets(file)
    file.write_text("")
    with pytest.raises(Misconfigured, match="there is none in it"):
        read_baskets(file)
    file.write_bytes(msgspec.json.encode(baskets(1)[0]) + b"\n{}\n")
    with pytest.raises(Misconfigured, match=r"b\.jsonl:2: no basket"):
        read_baskets(file)
    assert len(read_baskets(file, 1)) == 1


def test_methods_are_spread_by_weight_and_the_same_each_time() -> None:
    mix = parse_mix("a=9, b=1")
    methods = [method_of(mix, n) for n in range(1000)]

    assert (methods.count("a"), methods.count("b")) == (900, 100)
    assert methods == [method_of(mix, n) for n in range(1000)]
    assert [method_of(parse_mix("a"), n) for n in range(3)] == ["a"] * 3
    for wrong in ("", "a=0", "a=x", "=1", "a,,b"):
        with pytest.raises(Misconfigured):
            parse_mix(wrong)


def test_a_file_is_repeated_when_more_is_asked_for() -> None:
    assert [b.basket for b in repeat(baskets(2), 5)] == ["b0", "b1", "b0", "b1", "b0"]
