"""What the port to a provider promises, asked of the simulated one. An adapter for a real one runs the same tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from millstream.ports.instrumentation import Silent
from millstream.stores.sqlite import SqliteStore
from millstream.testing.clock import ManualClock
from millstream_services.payments.domain import Answer
from millstream_services.payments.provider import Charge, NoAnswer, ProviderUnavailable, Refund
from millstream_services.payments.signature import check
from millstream_services.payments.simulated.book import Book
from millstream_services.payments.simulated.courier import Courier
from millstream_services.payments.simulated.provider import SimulatedProvider


def charge(method: str = "sim_ok", key: str = "k", amount: int = 350) -> Charge:
    return Charge(key, "order", method, amount, "USD")


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[SimulatedProvider]:
    clock = ManualClock()
    async with SqliteStore(tmp_path / "provider.db", clock=clock, synchronous="OFF") as store:
        book = Book(store)
        secret = await book.prepare(b"secret")
        yield SimulatedProvider(book, clock, [secret], 0, "2s")


async def test_a_key_is_charged_once_however_often_and_at_once_it_is_asked_for(provider: SimulatedProvider) -> None:
    answers = await asyncio.gather(*(provider.charge(charge()) for _ in range(30)))
    assert {a.answer for a in answers} == {Answer.SUCCEEDED}
    assert len({a.ref for a in answers}) == 1
    [entry] = (await provider.book("", 10)).entries
    assert (entry.charges, entry.calls, entry.amount) == (1, 30, 350)


async def test_a_key_cannot_be_used_for_another_amount(provider: SimulatedProvider) -> None:
    await provider.charge(charge())
    assert (await provider.charge(charge(amount=351))).answer is Answer.DECLINED
    [entry] = (await provider.book("", 10)).entries
    assert (entry.charges, entry.amount) == (1, 350)


async def test_an_error_charges_nothing(provider: SimulatedProvider) -> None:
    for _ in range(2):
        with pytest.raises(ProviderUnavailable):
            await provider.charge(charge("sim_error_then_ok"))
        assert (await provider.ask("k")).answer is Answer.NOT_FOUND
    assert (await provider.charge(charge("sim_error_then_ok"))).answer is Answer.SUCCEEDED
    assert (await provider.charge(charge("sim_error_then_ok"))).answer is Answer.SUCCEEDED
    [entry] = (await provider.book("", 10)).entries
    assert (entry.charges, entry.calls) == (1, 4)


async def test_an_unanswered_charge_is_found_by_asking(provider: SimulatedProvider) -> None:
    for _ in range(3):
        with pytest.raises(NoAnswer):
            await provider.charge(charge("sim_timeout"))
    asked = await provider.ask("k")
    assert (asked.answer, asked.amount) == (Answer.SUCCEEDED, 350)


async def test_a_cancelled_key_is_never_charged_even_when_its_call_comes_later(provider: SimulatedProvider) -> None:
    assert (await provider.ask("k")).answer is Answer.NOT_FOUND
    assert (await provider.cancel("k")).answer is Answer.CANCELLED
    assert (await provider.charge(charge())).answer is Answer.CANCELLED
    assert (await provider.ask("k")).answer is Answer.CANCELLED
    [entry] = (await provider.book("", 10)).entries
    assert entry.charges == 0


async def test_cancelling_comes_too_late_for_what_is_charged(provider: SimulatedProvider) -> None:
    await provider.charge(charge())
    assert (await provider.cancel("k")).answer is Answer.SUCCEEDED


async def test_a_refund_is_given_once_and_never_beyond_the_charge(provider: SimulatedProvider) -> None:
    await provider.charge(charge())
    first = await asyncio.gather(*(provider.refund(Refund("r1", "k", "ch", 200, "USD")) for _ in range(5)))
    assert {(r.done, r.ref) for r in first} == {(True, first[0].ref)}
    assert not (await provider.refund(Refund("r2", "k", "ch", 151, "USD"))).done
    assert (await provider.refund(Refund("r3", "k", "ch", 150, "USD"))).done
    [entry] = (await provider.book("", 10)).entries
    assert entry.refunded == 350


async def test_the_book_is_read_in_pages(provider: SimulatedProvider) -> None:
    for n in range(7):
        await provider.charge(charge(key=f"k{n}"))
    seen, after = [], ""
    while True:
        page = await provider.book(after, 3)
        seen += [entry.key for entry in page.entries]
        after = page.next
        if not after:
            break
    assert seen == [f"k{n}" for n in range(7)]


async def test_a_webhook_is_delivered_until_it_is_taken_and_a_cancelled_charge_tells_nothing(
    provider: SimulatedProvider,
) -> None:
    clock: ManualClock = provider._clock  # type: ignore[assignment] - the fixture's own
    answers = [503, 0, 200]
    bodies: list[bytes] = []

    async def post(body: bytes, signature: str) -> int:
        check(body, signature, provider.secrets, clock.now_us())
        bodies.append(body)
        status = answers.pop(0)
        if status == 0:
            raise OSError("refused")
        return status

    courier = Courier(provider, post, clock, Silent())
    await provider.charge(charge("sim_late", "late"))
    await provider.charge(charge("sim_late", "cancelled"))
    await provider.cancel("cancelled")
    for _ in range(12):
        await courier.deliver_due()
        await clock.advance(1)
    assert len(bodies) == 3
    assert len(set(bodies)) == 1
    assert (await provider.ask("late")).answer is Answer.SUCCEEDED
    assert (await provider.ask("cancelled")).answer is Answer.CANCELLED
    assert answers == []


async def test_a_second_start_keeps_the_secret_that_webhooks_are_signed_with(provider: SimulatedProvider) -> None:
    assert await provider.book_store.prepare(b"another") == b"secret"
