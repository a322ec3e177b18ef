"""Baskets: what the file holds, which of them must be refused, and the request that each becomes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...errors import Misconfigured

__all__ = ["Basket", "Line", "Mix", "order_body", "parse_mix", "read_baskets"]


class Line(msgspec.Struct, frozen=True):
    """One product; `amount` is that of the whole line in minor units."""

    product: str
    quantity: int
    amount: int


class Basket(msgspec.Struct, frozen=True):
    """One line of the file."""

    basket: str
    customer: str
    currency: str
    lines: tuple[Line, ...]
    total: int

    @property
    def wrong_places(self) -> tuple[str, ...]:
        """Places that make it unacceptable, one of which the refusal must name; empty for an acceptable one."""
        wrong = [f"lines[{n}]" for n, line in enumerate(self.lines) if line.quantity < 1 or line.amount < 0]
        if self.total <= 0 or self.total != sum(line.amount for line in self.lines):
            wrong.append("total")
        return tuple(wrong)


Mix = tuple[tuple[str, int], ...]
"""Payment methods with their weights."""


def read_baskets(file: Path, limit: int | None = None) -> list[Basket]:
    """The baskets of a file of JSON lines, in its order.

    Raises:
        Misconfigured: it cannot be read, or a line is no basket; names the line.
    """
    decoder = msgspec.json.Decoder(Basket)
    found: list[Basket] = []
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if limit is not None and len(found) >= limit:
                    break
                try:
                    found.append(decoder.decode(line))
                except msgspec.DecodeError as error:
                    raise Misconfigured(f"{file}:{number}: no basket ({error})") from error
    except OSError as error:
        raise Misconfigured(f"--baskets {file}: {error.strerror}") from error
    if not found:
        raise Misconfigured(f"--baskets {file}: there is none in it")
    return found


def parse_mix(text: str) -> Mix:
    """`sim_ok` or `sim_ok=9,sim_declined=1`.

    Raises:
        Misconfigured: it reads otherwise.
    """
    mix: list[tuple[str, int]] = []
    for part in text.split(","):
        method, _, weight = part.strip().partition("=")
        if not method or (weight and not weight.isdecimal()) or weight == "0":
            raise Misconfigured(f"--methods {text!r}: write it as sim_ok=9,sim_declined=1")
        mix.append((method, int(weight or 1)))
    return tuple(mix)


def method_of(mix: Mix, index: int) -> str:
    """The method of the `index`-th basket: the same for every run, spread evenly over the file."""
    cycle = sum(weight for _, weight in mix)
    # A step that shares no factor with the cycle's length visits every place once and mixes the methods well.
    place = index * 7919 % cycle if cycle % 7919 else index % cycle
    for method, weight in mix:
        place -= weight
        if place < 0:
            return method
    raise AssertionError


def order_body(basket: Basket, method: str) -> bytes:
    """The body of `POST /orders`."""
    return msgspec.json.encode(
        {
            "customer": basket.customer,
            "currency": basket.currency,
            "lines": basket.lines,
            "total": basket.total,
            "payment": {"method": method},
        }
    )


def repeat(baskets: Sequence[Basket], count: int) -> list[Basket]:
    """The first `count` of the baskets, beginning anew at their end."""
    return [baskets[n % len(baskets)] for n in range(count)]
