"""What an order is, when it is acceptable, and how it may move. Pure: no database, no framework."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..contracts.currencies import DIGITS
from ..contracts.methods import METHODS

__all__ = [
    "ADVANCES",
    "LINES_LIMIT",
    "MOVES",
    "Line",
    "NewOrder",
    "Problem",
    "keeps_money",
    "problems_of",
]

MOVES = {
    "PENDING": ("CONFIRMED", "FAILED", "CANCELLED"),
    "CONFIRMED": ("PREPARING", "CANCELLED"),
    "PREPARING": ("OUT_FOR_DELIVERY",),
    "OUT_FOR_DELIVERY": ("DELIVERED",),
    "FAILED": ("PENDING",),
}
"""State → what may follow. A failed order comes back when another payment is opened for it."""

ADVANCES = ("PREPARING", "OUT_FOR_DELIVERY", "DELIVERED")
"""The states that an operator brings an order into, in order."""

LINES_LIMIT = 500
AMOUNT_LIMIT = 10**15
"""Of a line and of a total, in minor units: sums stay exact in every tool that reads JSON numbers as doubles."""
QUANTITY_LIMIT = 10**9
TEXT_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Line:
    """One product of an order. `amount` is of the whole line, in minor units."""

    product: str
    quantity: int
    amount: int


@dataclass(frozen=True, slots=True)
class NewOrder:
    """An order as a client wants it. Without a method it waits for a payment."""

    customer: str
    currency: str
    lines: Sequence[Line]
    total: int
    method: str | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: `lines[3].quantity`, `must be at least 1`."""

    at: str
    message: str

    def __str__(self) -> str:
        return f"{self.at} {self.message}"


def problems_of(order: NewOrder) -> list[Problem]:
    """Everything that makes an order unacceptable; nothing for an acceptable one."""
    found: list[Problem] = []
    if not order.customer.strip() or len(order.customer) > TEXT_LIMIT:
        found.append(Problem("customer", f"must have 1 to {TEXT_LIMIT} characters"))
    if order.currency not in DIGITS:
        found.append(Problem("currency", "must be an ISO 4217 code, for instance USD"))
    if order.method is not None and order.method not in METHODS:
        found.append(Problem("payment.method", f"must be one of {', '.join(sorted(METHODS))}"))
    if not 1 <= len(order.lines) <= LINES_LIMIT:
        found.append(Problem("lines", f"must have 1 to {LINES_LIMIT} entries"))
        return found
    summed = 0
    for index, line in enumerate(order.lines):
        summed += line.amount
        # One test for the usual case: an order has many lines, and nearly all of them are fine.
        if (
            1 <= line.quantity <= QUANTITY_LIMIT
            and 0 <= line.amount <= AMOUNT_LIMIT
            and 0 < len(line.product) <= TEXT_LIMIT
        ):
            continue
        found.extend(_problems_of_line(f"lines[{index}]", line))
    if not 0 < order.total <= AMOUNT_LIMIT:
        found.append(Problem("total", f"must be 1 to {AMOUNT_LIMIT}"))
    elif order.total != summed:
        found.append(Problem("total", f"must be the sum of the lines' amounts, {summed}"))
    return found


def _problems_of_line(at: str, line: Line) -> list[Problem]:
    found: list[Problem] = []
    if not 0 < len(line.product) <= TEXT_LIMIT:
        found.append(Problem(f"{at}.product", f"must have 1 to {TEXT_LIMIT} characters"))
    if line.quantity < 1:
        found.append(Problem(f"{at}.quantity", "must be at least 1"))
    elif line.quantity > QUANTITY_LIMIT:
        found.append(Problem(f"{at}.quantity", f"must be at most {QUANTITY_LIMIT}"))
    if line.amount < 0:
        found.append(Problem(f"{at}.amount", "must be at least 0"))
    elif line.amount > AMOUNT_LIMIT:
        found.append(Problem(f"{at}.amount", f"must be at most {AMOUNT_LIMIT}"))
    return found


def keeps_money(state: str, paid_by: str | None, payment_id: str) -> bool:
    """Whether the money of a payment belongs to an order in this state; if not, it has to go back.

    It does while the order goes on and it is this very payment that paid it: a second payment of one order, or one
    that settled after the order was cancelled, was taken for nothing.
    """
    return state not in ("CANCELLED", "FAILED") and paid_by == payment_id
