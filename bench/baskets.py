"""Real baskets as requests: what the order benchmarks post."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from millstream.cli.load.baskets import Basket, read_baskets, repeat
from millstream.cli.load.connection import Address, build_request

from .system import ROOT

__all__ = ["BASKETS", "acceptable", "unpaid_orders"]

BASKETS = ROOT / "examples" / "data" / "baskets.jsonl"


def acceptable(file: Path, count: int) -> list[Basket]:
    """The first `count` baskets that must be accepted; the file begins anew at its end."""
    return repeat([basket for basket in read_baskets(file) if not basket.wrong_places], count)


def unpaid_orders(address: Address, token: str, baskets: Sequence[Basket]) -> list[bytes]:
    """One `POST /orders` a basket, without a payment: accepted and announced, then it waits for its customer."""
    return [
        build_request(
            address,
            "POST",
            "/orders",
            token,
            msgspec.json.encode({name: getattr(basket, name) for name in ("customer", "currency", "lines", "total")}),
            {"idempotency-key": f"bench-{n:07}"},
        )
        for n, basket in enumerate(baskets)
    ]
