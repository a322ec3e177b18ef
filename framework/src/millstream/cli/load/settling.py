"""Waiting until every accepted order is settled and its customer told, by reading each back through the gateway.

Orders are asked for in the order they were accepted. As soon as many in a row are not settled yet, the round ends and
the system is left alone for a moment: the reader must not take the time that the work needs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from time import perf_counter

import msgspec

from ...message import parse_time
from ..output import Progress
from .connection import Address, Reply, build_request
from .pool import Lane, Unanswered, lanes

__all__ = ["Notice", "OrderFacts", "Reader", "settle"]

UNSETTLED_IN_A_ROW = 48
PAUSE_SECONDS = 0.2


class _State(msgspec.Struct, frozen=True):
    state: str
    at: str = ""


class _PaymentRef(msgspec.Struct, frozen=True):
    id: str
    state: str


class _Order(msgspec.Struct, frozen=True):
    id: str
    state: str
    total: int
    payment: _PaymentRef | None = None
    history: list[_State] = []


class _Payment(msgspec.Struct, frozen=True):
    id: str
    state: str
    amount: int
    captured: int
    refunded: int


class Notice(msgspec.Struct, frozen=True):
    """What a customer was told."""

    kind: str
    at: str = ""


class OrderFacts(msgspec.Struct):
    """Everything that was read of one order; what could not be read stays empty."""

    id: str
    state: str = ""
    total: int = 0
    payment_id: str = ""
    payment_state: str = ""
    captured: int = 0
    refunded: int = 0
    notices: list[Notice] = []
    settled_us: int = 0
    """When the last of its states or notices was recorded, by the server's clock."""
    unreadable: str = ""

    @property
    def settled(self) -> bool:
        """Whether nothing is to come: it has left PENDING, its payment is final, and its customer was told so."""
        told = any(notice.kind == _NOTICE.get(self.state) for notice in self.notices)
        final = self.payment_state in ("SUCCESS", "FAILED")
        return self.state not in ("", "PENDING") and final and told


_NOTICE = {"CONFIRMED": "order.confirmed", "FAILED": "order.failed", "CANCELLED": "order.cancelled"}
_order = msgspec.json.Decoder(_Order)
_payment = msgspec.json.Decoder(_Payment)
_notices = msgspec.json.Decoder(list[Notice])


class Reader:
    """Reads an order, its payment and its notices with one client's token."""

    def __init__(self, address: Address, token: str) -> None:
        self._address = address
        self._token = token

    async def get(self, lane: Lane, path: str) -> Reply:
        """One GET."""
        return await lane.send(build_request(self._address, "GET", path, self._token))

    async def read(self, lane: Lane, facts: OrderFacts) -> None:
        """Bring the facts of an order up to date; stops early while it is pending."""
        facts.unreadable = ""
        try:
            reply = await self.get(lane, f"/orders/{facts.id}")
            if reply.status != 200:
                facts.unreadable = f"GET /orders/{facts.id} answers {reply.status}"
                return
            order = _order.decode(reply.body)
            facts.state, facts.total = order.state, order.total
            if order.state == "PENDING":
                return
            notices = await self.get(lane, f"/notifications?order={facts.id}")
            facts.notices = _notices.decode(notices.body) if notices.status == 200 else []
            moments = [state.at for state in order.history] + [notice.at for notice in facts.notices]
            facts.settled_us = max((parse_time(at) for at in moments if at), default=0)
            if order.payment is not None:
                await self._read_payment(lane, facts, order.payment.id)
        except Unanswered as error:
            facts.unreadable = str(error)
        except msgspec.DecodeError as error:
            facts.unreadable = f"order {facts.id}: not understood ({error})"

    async def _read_payment(self, lane: Lane, facts: OrderFacts, payment_id: str) -> None:
        facts.payment_id = payment_id
        reply = await self.get(lane, f"/payments/{payment_id}")
        if reply.status != 200:
            facts.unreadable = f"GET /payments/{payment_id} answers {reply.status}"
            return
        payment = _payment.decode(reply.body)
        facts.payment_state = payment.state
        facts.captured, facts.refunded = payment.captured, payment.refunded


async def settle(
    reader: Reader, address: Address, ids: Iterable[str], connections: int, patience_seconds: float, bar: Progress
) -> list[OrderFacts]:
    """Read every order until it is settled, or until none has settled for `patience_seconds`."""
    every = [OrderFacts(order_id) for order_id in ids]
    waiting = deque(every)
    async with lanes(address, connections, patience_seconds) as opened:
        last_success = perf_counter()
        while waiting:
            before = len(waiting)
            await _round(reader, opened, waiting)
            settled = before - len(waiting)
            bar.advance(settled)
            if settled:
                last_success = perf_counter()
            elif perf_counter() - last_success > patience_seconds:
                break
            if waiting:
                bar.note(f"{len(waiting)} orders are under way")
                await asyncio.sleep(PAUSE_SECONDS)
    return every


async def _round(reader: Reader, opened: list[Lane], waiting: deque[OrderFacts]) -> None:
    """Read from the front; unsettled ones go to the back. Ends after one turn, or many unsettled ones in a row."""
    left, in_a_row = len(waiting), 0

    async def run(lane: Lane) -> None:
        nonlocal left, in_a_row
        while left > 0 and in_a_row < UNSETTLED_IN_A_ROW:
            left -= 1
            facts = waiting.popleft()
            await reader.read(lane, facts)
            if facts.settled:
                in_a_row = 0
            else:
                in_a_row += 1
                waiting.append(facts)

    async with asyncio.TaskGroup() as group:
        for lane in opened:
            group.create_task(run(lane))
