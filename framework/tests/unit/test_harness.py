"""The harness that users test with: requests, events, time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from millstream import Call, Caller, Event, Permanent, Query, Retry, Service, Tx
from millstream.http import Created
from millstream.resilience.breaker import BreakerOpen
from millstream.testing.harness import Harness, HttpFailure

MakeHarness = Callable[..., Harness]


class Ordered(Event, topic="orders", key="order"):
    order: str
    total: int


class Confirmed(Event, topic="confirmations", key="order"):
    order: str


class NewOrder(Event, topic="unused"):
    order: str
    total: int


def shop(folder: Path, sent: list[tuple[str, int]]) -> Service:
    (folder / "0001_orders.sql").write_text("CREATE TABLE orders (id TEXT PRIMARY KEY, total INTEGER, state TEXT)")
    service = Service("shop", migrations=str(folder))
    service.emits(Ordered)

    @service.post("/orders", idempotent=True)
    async def place(body: NewOrder, caller: Caller, tx: Tx) -> Created[NewOrder]:
        await tx.execute("INSERT INTO orders VALUES (?, ?, 'PENDING')", body.order, body.total)
        tx.publish(Ordered(body.order, body.total))
        return Created(body, location=f"/orders/{body.order}")

    @service.get("/orders/{order}")
    async def read(order: str, query: Query) -> dict[str, str]:
        row = await query.fetch_one("SELECT state FROM orders WHERE id = ?", order)
        return {"state": row[0] if row else "UNKNOWN"}

    @service.on(Ordered, name="confirm", retry=Retry(attempts=3, first="1s", jitter=False))
    async def confirm(event: Ordered, tx: Tx) -> Confirmed:
        if event.total < 0:
            raise Permanent("a negative total")
        if event.total == 13 and tx.now_us < 1_767_225_602_000_000:
            raise ValueError("not before two seconds have passed")
        tx.expect("UPDATE orders SET state = 'CONFIRMED' WHERE id = ? AND state = 'PENDING'", event.order)
        return Confirmed(event.order)

    @service.effect(Confirmed, name="mail")
    async def mail(event: Confirmed, call: Call) -> None:
        sent.append((event.order, call.attempt))

    return service


async def test_a_posted_order_is_confirmed_and_mailed_once(millstream: MakeHarness, tmp_path: Path) -> None:
    sent: list[tuple[str, int]] = []
    async with millstream(shop(tmp_path, sent)) as ms:
        first = await ms.call("POST", "/orders", {"order": "o1", "total": 5}, key="k1")
        again = await ms.call("POST", "/orders", {"order": "o1", "total": 5}, key="k1")
        assert (first.status, first.body) == (again.status, again.body) == (201, first.body)
        await ms.quiet()
        assert await ms.get("/orders/o1") == {"state": "CONFIRMED"}
        assert ms.published(Confirmed) == [Confirmed("o1")]
        assert sent == [("o1", 1)]


async def test_a_retry_waits_for_its_time_and_no_sleep_is_needed(millstream: MakeHarness, tmp_path: Path) -> None:
    sent: list[tuple[str, int]] = []
    async with millstream(shop(tmp_path, sent)) as ms:
        await ms.post("/orders", {"order": "o1", "total": 13}, key="k1")
        await ms.quiet()
        assert await ms.get("/orders/o1") == {"state": "PENDING"}
        await ms.advance("1s")
        assert await ms.get("/orders/o1") == {"state": "PENDING"}
        await ms.advance("2s")
        assert await ms.get("/orders/o1") == {"state": "CONFIRMED"}


async def test_a_permanent_error_is_a_dead_letter_at_once(millstream: MakeHarness, tmp_path: Path) -> None:
    async with millstream(shop(tmp_path, [])) as ms:
        await ms.publish(Ordered("o9", -1))
        await ms.quiet()
        ((subscription, key, reason, error),) = await ms.dead_letters("shop")
        assert (subscription, key, reason) == ("confirm", "o9", "failed")
        assert "Permanent: a negative total at unit/test_harness.py" in error


async def test_a_failed_expectation_keeps_nothing_and_names_the_statement(
    millstream: MakeHarness, tmp_path: Path
) -> None:
    async with millstream(shop(tmp_path, [])) as ms:
        await ms.publish(Ordered("nobody", 1))
        await ms.quiet()
        assert ms.published(Confirmed) == []
        ((_, _, _, error),) = await ms.dead_letters("shop")
        assert "UPDATE orders SET state" in error


async def test_an_http_failure_shows_what_came_back(millstream: MakeHarness, tmp_path: Path) -> None:
    async with millstream(shop(tmp_path, [])) as ms:
        with pytest.raises(HttpFailure, match="answered 400"):
            await ms.post("/orders", {"order": "o1", "total": 5})


async def test_time_does_not_run_ahead_of_retries(millstream: MakeHarness, tmp_path: Path) -> None:
    """Tries fall at 0, 1, 3, 7 and 15 seconds, however far time is moved at once."""
    times: list[float] = []
    service = Service("failing")

    @service.on(Ordered, name="never", retry=Retry(attempts=5, first="1s", jitter=False))
    async def never(event: Ordered, tx: Tx) -> None:
        times.append((tx.now_us - 1_767_225_600_000_000) / 1e6)
        raise ValueError("no")

    async with millstream(service) as ms:
        await ms.publish(Ordered("o1", 1))
        await ms.quiet()
        await ms.advance("1m")
        # A batch that fails runs again with savepoints: the handler sees its first try twice.
        assert sorted(set(times)) == [0, 1, 3, 7, 15]
        assert len(await ms.dead_letters(service)) == 1


async def test_an_open_breaker_blames_nobody(millstream: MakeHarness, tmp_path: Path) -> None:
    tries: list[int] = []
    service = Service("caller")

    @service.effect(Ordered, name="ask", retry=Retry(attempts=2))
    async def ask(event: Ordered, call: Call) -> None:
        tries.append(call.attempt)
        if len(tries) < 5:
            raise BreakerOpen("provider", 5.0)

    async with millstream(service) as ms:
        await ms.publish(Ordered("o1", 1))
        await ms.quiet()
        for _ in range(4):
            await ms.advance("5s")
        assert tries == [1, 1, 1, 1, 1]
        assert await ms.dead_letters(service) == []


async def test_returning_what_is_no_event_is_a_dead_letter_that_says_so(
    millstream: MakeHarness, tmp_path: Path
) -> None:
    service = Service("wrong")

    @service.on(Ordered, name="text")
    async def text(event: Ordered, tx: Tx) -> str:
        return "done"

    async with millstream(service) as ms:
        await ms.publish(Ordered("o1", 1))
        await ms.quiet()
        ((_, _, _, error),) = await ms.dead_letters(service)
        assert "str is no event" in error
