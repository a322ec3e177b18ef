"""The simulated provider: each payment method is one way in which a provider behaves.

| method | what happens |
|---|---|
| `sim_ok` | charged at once |
| `sim_declined` | declined at once |
| `sim_error_then_ok` | two errors that charge nothing, then charged |
| `sim_timeout` | charged, and the answer is lost: only a question brings it out |
| `sim_late` | accepted; charged seconds later, told by webhook |
| `sim_twice` | accepted; its webhooks come twice and in the wrong order |
| `sim_never` | accepted, and never settled |

A key is charged at most once, however often it is asked for; the book counts both.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import msgspec
from millstream.clock import Clock, Duration, seconds
from millstream.ports.store import Session

from ..domain import Answer
from ..provider import (
    BookEntry,
    BookPage,
    Charge,
    Charged,
    ChargeEvent,
    NoAnswer,
    ProviderUnavailable,
    Refund,
    Refunded,
)
from ..signature import check
from .book import Book, ChargeRow, announce, enter, give_back, turn

__all__ = ["SimulatedProvider", "Webhook"]

_FIRST = {
    "sim_ok": "succeeded",
    "sim_timeout": "succeeded",
    "sim_declined": "declined",
    "sim_error_then_ok": "none",
    "sim_late": "pending",
    "sim_twice": "pending",
    "sim_never": "pending",
}
"""Method → the status of a key's first entry."""
_ANSWERS = {
    "none": Answer.NOT_FOUND,
    "pending": Answer.PENDING,
    "succeeded": Answer.SUCCEEDED,
    "declined": Answer.DECLINED,
    "cancelled": Answer.CANCELLED,
}
ERRORS = 2


class Webhook(msgspec.Struct, frozen=True):
    """The body of a webhook."""

    id: str
    type: str
    key: str
    ref: str
    amount: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Webhook).decode


class SimulatedProvider:
    """A `PaymentProvider` on a book.

    secrets: what webhooks may be signed with; the first signs ours. answer_timeout: how long a caller waits for no
    answer. settle_after: how long a late settlement takes.
    """

    def __init__(
        self, book: Book, clock: Clock, secrets: Sequence[bytes], answer_timeout: Duration, settle_after: Duration
    ) -> None:
        self.book_store = book
        self.secrets = tuple(secrets)
        self._clock = clock
        self._answer_timeout = seconds(answer_timeout)
        self._settle_after_us = round(seconds(settle_after) * 1e6)

    async def charge(self, charge: Charge) -> Charged:
        now_us = self._clock.now_us()

        async def work(session: Session) -> ChargeRow:
            row = await enter(
                session, charge.key, _ref("ch", charge.key), charge.reference, charge.method, charge.amount,
                charge.currency, _FIRST.get(charge.method, "declined"),
            )  # fmt: skip
            if row.calls == 1 and row.status == "pending":
                await self._plan(session, row, now_us)
            elif row.status == "none" and row.calls > ERRORS and await turn(session, row.key, ("none",), "succeeded"):
                return msgspec.structs.replace(row, status="succeeded")
            return row

        row = await self.book_store.transact(work)
        if row.status == "none":
            raise ProviderUnavailable("the provider cannot take payments right now (503)")
        if row.status != "cancelled" and (row.amount, row.currency) != (charge.amount, charge.currency):
            return Charged(Answer.DECLINED, row.ref, "this key was used for another amount")
        if row.method == "sim_timeout" and row.status == "succeeded":
            await self._clock.sleep(self._answer_timeout)
            raise NoAnswer(f"the provider did not answer within {self._answer_timeout} s")
        return _charged(row)

    async def ask(self, key: str) -> Charged:
        row = await self.book_store.find(key)
        return Charged(Answer.NOT_FOUND) if row is None else _charged(row)

    async def cancel(self, key: str) -> Charged:
        async def work(session: Session) -> ChargeRow:
            # A key that never arrived is entered as cancelled: should its call still come, it charges nothing.
            row = await enter(session, key, _ref("ch", key), "", "", 0, "", "cancelled")
            cancelled = await turn(session, key, ("none", "pending"), "cancelled")
            return msgspec.structs.replace(row, status="cancelled") if cancelled else row

        return _charged(await self.book_store.transact(work))

    async def refund(self, refund: Refund) -> Refunded:
        async def work(session: Session) -> str | None:
            return await give_back(session, refund.key, _ref("re", refund.key), refund.charge, refund.amount)

        ref = await self.book_store.transact(work)
        if ref is None:
            return Refunded(False, reason="the charge does not have that much left")
        return Refunded(True, ref)

    async def book(self, after: str, limit: int) -> BookPage:
        rows = await self.book_store.page(int(after or 0), limit)
        entries = tuple(
            BookEntry(
                row.key, row.ref, _ANSWERS[row.status], row.amount, row.refunded, row.currency, row.charges, row.calls
            )
            for _, row in rows
        )
        return BookPage(entries, str(rows[-1][0]) if len(rows) == limit else "")

    def read_webhook(self, body: bytes, signature: str, now_us: int) -> ChargeEvent | None:
        check(body, signature, self.secrets, now_us)
        try:
            webhook = _decode(body)
        except msgspec.DecodeError:
            return None  # signed by the provider, and of a kind that this version does not know
        answer = _ANSWERS.get(webhook.type.removeprefix("charge."))
        if answer is None or not webhook.type.startswith("charge."):
            return None
        return ChargeEvent(webhook.id, webhook.key, Charged(answer, webhook.ref, amount=webhook.amount))

    def webhook(self, event: str, status: str, row: ChargeRow) -> bytes:
        """The body of a webhook about a charge."""
        return _encode(Webhook(event, f"charge.{status}", row.key, row.ref, row.amount))

    async def _plan(self, session: Session, row: ChargeRow, now_us: int) -> None:
        """When and how an accepted charge is settled and told of."""
        if row.method == "sim_late":
            due = now_us + self._settle_after_us
            await announce(session, due, _ref("ev", f"{row.key} succeeded"), row.key, "succeeded")
        elif row.method == "sim_twice":
            due, step = now_us + self._settle_after_us // 4, self._settle_after_us // 20
            for place, status in enumerate(("succeeded", "pending", "succeeded", "pending")):
                event = _ref("ev", f"{row.key} {status}")
                await announce(session, due + place * step, event, row.key, status)


def _charged(row: ChargeRow) -> Charged:
    answer = _ANSWERS[row.status]
    reason = "the card was declined" if answer is Answer.DECLINED else ""
    return Charged(answer, row.ref, reason, row.amount if answer is Answer.SUCCEEDED else None)


def _ref(kind: str, key: str) -> str:
    return f"{kind}_{blake2b(key.encode(), digest_size=12).hexdigest()}"
