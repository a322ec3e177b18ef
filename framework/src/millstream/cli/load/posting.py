"""Posting the baskets, at a rate or as fast as the connections go, and what came back."""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Sequence
from time import perf_counter, time_ns

import msgspec

from ..output import Progress
from .baskets import Basket, Mix, method_of, order_body
from .connection import Address, Reply, build_request
from .pool import Lane, Unanswered, for_each, lanes

__all__ = ["Accepted", "Posting", "Refused", "build_requests", "post_all"]


REPORT_SECONDS = 0.25


class Accepted(msgspec.Struct, frozen=True):
    """What 201 says."""

    id: str
    state: str
    total: int


class Refused(msgspec.Struct, frozen=True):
    """What a problem says: the status and the places that it names."""

    status: int
    places: tuple[str, ...]
    detail: str


class Posting(msgspec.Struct):
    """All that came back; `outcomes[n]` is of the n-th basket, None where there was no final reply."""

    outcomes: list[Accepted | Refused | None]
    latencies: array[float]
    """Seconds from when a request was due (with a rate) or sent (without) to its reply, one for each that has one."""
    seconds: float = 0.0
    began_us: int = 0
    repeats: int = 0
    unanswered: list[str] = []

    @property
    def accepted(self) -> dict[str, int]:
        """Order id → number of the basket."""
        return {outcome.id: n for n, outcome in enumerate(self.outcomes) if isinstance(outcome, Accepted)}


class _Place(msgspec.Struct, frozen=True):
    at: str = ""


class _Document(msgspec.Struct, frozen=True):
    detail: str = ""
    errors: list[_Place] = []


_accepted = msgspec.json.Decoder(Accepted)
_document = msgspec.json.Decoder(_Document)


def build_requests(address: Address, token: str, baskets: Sequence[Basket], mix: Mix, run: str) -> list[bytes]:
    """One request a basket. Keys are of this run, so that the same file can be posted again."""
    return [
        build_request(
            address, "POST", "/orders", token, order_body(basket, method_of(mix, n)),
            {"idempotency-key": f"{run}-{n:07}"},
        )
        for n, basket in enumerate(baskets)
    ]  # fmt: skip


async def post_all(
    address: Address,
    requests: Sequence[bytes],
    connections: int,
    rate: float | None,
    patience_seconds: float,
    bar: Progress,
) -> Posting:
    """Post every request. `rate` is in requests per second; None: each connection sends as soon as it can."""
    posting = Posting([None] * len(requests), array("d"))
    async with asyncio.TaskGroup() as group, lanes(address, connections, patience_seconds) as opened:
        reporter = group.create_task(_report(posting, bar))
        posting.began_us = time_ns() // 1000
        began = perf_counter()

        async def post(lane: Lane, number: int) -> None:
            sent = perf_counter()
            if rate is not None:
                # Measured from when it was due: a server that stalls must not hide the requests that waited for it.
                due = began + number / rate
                if due > sent:
                    await asyncio.sleep(due - sent)
                sent = due
            try:
                reply = await lane.send(requests[number])
            except Unanswered as error:
                posting.unanswered.append(str(error))
                return
            posting.latencies.append(perf_counter() - sent)
            posting.outcomes[number] = outcome_of(reply)

        await for_each(opened, len(requests), post)
        posting.seconds = perf_counter() - began
        posting.repeats = sum(lane.repeats for lane in opened)
        reporter.cancel()
    return posting


def outcome_of(reply: Reply) -> Accepted | Refused:
    """What a reply to `POST /orders` says."""
    if reply.status == 201:
        try:
            return _accepted.decode(reply.body)
        except msgspec.DecodeError as error:
            return Refused(reply.status, (), f"a 201 that is no order: {error}")
    try:
        document = _document.decode(reply.body)
    except msgspec.DecodeError:
        return Refused(reply.status, (), reply.body[:200].decode(errors="replace"))
    return Refused(reply.status, tuple(place.at for place in document.errors), document.detail)


async def _report(posting: Posting, bar: Progress) -> None:
    """Move the bar a few times a second: a step for every reply would cost more than sending the request."""
    shown = 0
    try:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            now = len(posting.latencies)
            bar.advance(now - shown)
            shown = now
    finally:
        bar.advance(len(posting.outcomes) - shown)
