"""The verdict: what was lost, what was doubled, and whether the books agree. Pure: facts in, words out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from .baskets import Basket
from .books import Books
from .posting import Accepted, Posting, Refused
from .settling import OrderFacts

__all__ = ["Latency", "Verdict", "judge", "percentile"]

SHOWN = 20


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds."""

    p50: float
    p99: float


class Verdict(msgspec.Struct, frozen=True):
    """The result of a load. `line` is its stable form; `complaints` says everything that is wrong, in words."""

    posted: int
    accepted: int
    refused: int
    confirmed: int
    failed: int
    notified: int
    total_minor: int
    lost: int
    doubled: int
    orders_per_s: float
    latency_ms: Latency
    complaints: tuple[str, ...] = ()
    whole_path_per_s: float = 0.0
    """Accepted orders per second from the first request to the last notification, by the server's clock."""
    repeats: int = 0
    """Requests that had to be sent again."""

    @property
    def passed(self) -> bool:
        """Nothing lost, nothing doubled, books that agree, and refusals where they belong."""
        return not (self.lost or self.doubled or self.complaints)

    def line(self) -> dict[str, object]:
        """The fields that scripts rely on, in their order."""
        names = self.__struct_fields__[:11]
        return {name: msgspec.to_builtins(getattr(self, name)) for name in names}


def judge(baskets: Sequence[Basket], posting: Posting, orders: Sequence[OrderFacts], books: Books) -> Verdict:
    """Compare what was promised with what is there."""
    complaints = _about_replies(baskets, posting)
    accepted = posting.accepted
    lost = {facts.id: why for facts in orders if (why := _lost(facts, baskets[accepted[facts.id]].total, books))}
    for order_id in sorted(set(accepted) - set(books.orders)):
        lost.setdefault(order_id, "it is not in the list of orders")
    doubled = _doubled(accepted, orders, books)
    complaints += [f"lost: order {order_id}: {why}" for order_id, why in lost.items()]
    complaints += [f"doubled: {what}" for what in doubled]
    complaints += _unbalanced(orders, books)
    states = Counter(facts.state for facts in orders)
    ended_us = max((facts.settled_us for facts in orders), default=0)
    whole = (ended_us - posting.began_us) / 1e6
    return Verdict(
        posted=len(posting.outcomes),
        accepted=len(accepted),
        refused=sum(isinstance(outcome, Refused) for outcome in posting.outcomes),
        confirmed=states["CONFIRMED"],
        failed=states["FAILED"],
        notified=sum(bool(facts.notices) for facts in orders),
        total_minor=sum(baskets[n].total for n in accepted.values()),
        lost=len(lost),
        doubled=len(doubled),
        orders_per_s=round(len(posting.latencies) / posting.seconds, 1) if posting.seconds > 0 else 0.0,
        latency_ms=Latency(percentile(posting, 0.50), percentile(posting, 0.99)),
        complaints=tuple(complaints),
        whole_path_per_s=round(len(accepted) / whole, 1) if whole > 0 else 0.0,
        repeats=posting.repeats,
    )


def percentile(posting: Posting, share: float) -> float:
    """Milliseconds that this share of the replies needed at most (nearest rank)."""
    ordered = sorted(posting.latencies)
    if not ordered:
        return 0.0
    return round(ordered[max(0, -(-int(share * 10_000) * len(ordered) // 10_000) - 1)] * 1000, 2)


def _about_replies(baskets: Sequence[Basket], posting: Posting) -> list[str]:
    complaints = [f"no final reply: {text}" for text in posting.unanswered]
    for basket, outcome in zip(baskets, posting.outcomes, strict=True):
        wrong = basket.wrong_places
        match outcome:
            case Accepted() if wrong:
                complaints.append(f"basket {basket.basket} was accepted although {wrong[0]} is wrong")
            case Accepted() if outcome.total != basket.total:
                complaints.append(f"basket {basket.basket}: accepted with total {outcome.total}, sent {basket.total}")
            case Refused() if not wrong:
                complaints.append(f"basket {basket.basket} was refused ({outcome.status}: {outcome.detail})")
            case Refused() if not any(place.startswith(wrong) for place in outcome.places):
                named = ", ".join(outcome.places) or "nothing"
                complaints.append(f"basket {basket.basket}: the refusal names {named}, wrong is {wrong[0]}")
            case _:
                pass
    answers = Counter(outcome.id for outcome in posting.outcomes if isinstance(outcome, Accepted))
    complaints += [f"order {order_id} answers for {count} baskets" for order_id, count in answers.items() if count > 1]
    return complaints


def _lost(facts: OrderFacts, total: int, books: Books) -> str:
    """Why an accepted order counts as lost; empty when all of it is there."""
    if facts.unreadable:
        return facts.unreadable
    if not facts.settled:
        told = ", ".join(notice.kind for notice in facts.notices) or "nobody was told"
        return f"not settled: {facts.state or 'no state'}, payment {facts.payment_state or 'none'}, {told}"
    if facts.total != total:
        return f"total is {facts.total}, {total} was sent"
    if facts.state != "CONFIRMED":
        return ""
    if facts.captured != total:
        return f"confirmed with {facts.captured} of {total} captured"
    if books.provider is not None and not _charged(books, facts.payment_id):
        return f"the provider's book knows no charge for payment {facts.payment_id}"
    return ""


def _charged(books: Books, payment_id: str) -> bool:
    return any(entry.status == "succeeded" for entry in (books.provider or {}).get(payment_id, ()))


def _doubled(accepted: dict[str, int], orders: Sequence[OrderFacts], books: Books) -> list[str]:
    found: list[str] = []
    for order_id, count in Counter(books.orders).items():
        if count > 1:
            found.append(f"order {order_id} is listed {count} times")
        if order_id not in accepted and not books.shared:
            found.append(f"order {order_id} exists, but no reply has named it")
    for facts in orders:
        for kind, count in Counter(notice.kind for notice in facts.notices).items():
            if count > 1:
                found.append(f"order {facts.id}: told {count} times of {kind}")
        entries = (books.provider or {}).get(facts.payment_id, ())
        charges = sum(entry.charges for entry in entries)
        if charges > 1:
            found.append(f"order {facts.id}: payment {facts.payment_id} was charged {charges} times")
    return found


def _unbalanced(orders: Sequence[OrderFacts], books: Books) -> list[str]:
    found = [
        f"the ledger does not balance: {currency} debit {balance.debit}, credit {balance.credit}"
        for currency, balance in books.balances.items()
        if balance.debit != balance.credit
    ]
    captured = sum(facts.captured - facts.refunded for facts in orders)
    if captured and not books.balances:
        found.append(f"{captured} was captured, and the ledger is empty")
    if books.provider is None:
        return found
    ours = [entry for facts in orders for entry in books.provider.get(facts.payment_id, ())]
    taken = sum(entry.amount * entry.charges - entry.refunded for entry in ours if entry.status == "succeeded")
    if taken != captured:
        found.append(f"we captured {captured}, the provider took {taken}")
    return found
