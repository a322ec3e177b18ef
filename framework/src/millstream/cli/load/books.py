"""The other sides of the same facts: the list of orders, the trial balance and the provider's own book, page by page."""

from __future__ import annotations

import msgspec

from ...errors import Permanent
from .connection import Address
from .pool import Lane, lanes
from .settling import Reader

__all__ = ["Balance", "BookEntry", "Books", "read_books"]

ORDERS_PAGE = 500
BOOK_PAGE = 1000
PATIENCE_SECONDS = 30.0


class _Listed(msgspec.Struct, frozen=True):
    id: str
    total: int


class Balance(msgspec.Struct, frozen=True):
    """Sums of one currency."""

    debit: int
    credit: int


class BookEntry(msgspec.Struct, frozen=True):
    """Who was really charged, and how often; `key` is our payment's id."""

    key: str
    status: str
    amount: int
    refunded: int
    charges: int
    calls: int


class _BookPage(msgspec.Struct, frozen=True):
    entries: list[BookEntry]
    next: str = ""


class Books(msgspec.Struct, frozen=True):
    """`orders`: ids of all orders that the client sees, as often as they are listed; `shared`: others may place some of
    those. `provider`: by payment id, None where the system has no provider's book to look into."""

    orders: list[str]
    balances: dict[str, Balance]
    provider: dict[str, list[BookEntry]] | None
    shared: bool = False


_listed = msgspec.json.Decoder(list[_Listed])
_balances = msgspec.json.Decoder(dict[str, Balance])
_page = msgspec.json.Decoder(_BookPage)


async def read_books(address: Address, client: Reader, operator: Reader, expected: int, shared: bool = False) -> Books:
    """Read all of them. `client` sees the orders of the run (and others where `shared`), `operator` the money.

    Raises:
        Permanent: one of them cannot be read.
    """
    async with lanes(address, 1, PATIENCE_SECONDS) as (lane,):
        return Books(
            await _orders(client, lane, expected),
            await _trial_balance(operator, lane),
            await _provider(operator, lane),
            shared,
        )


async def _orders(reader: Reader, lane: Lane, expected: int) -> list[str]:
    """Ids, newest first. Bounded: a list that repeats itself for ever is no list."""
    found: list[str] = []
    after = ""
    while len(found) <= 2 * expected + ORDERS_PAGE:
        page = _listed.decode(await _body(reader, lane, f"/orders?limit={ORDERS_PAGE}&after={after}"))
        found += [order.id for order in page]
        if len(page) < ORDERS_PAGE:
            break
        after = page[-1].id
    return found


async def _trial_balance(reader: Reader, lane: Lane) -> dict[str, Balance]:
    return _balances.decode(await _body(reader, lane, "/ledger/trial-balance"))


async def _provider(reader: Reader, lane: Lane) -> dict[str, list[BookEntry]] | None:
    found: dict[str, list[BookEntry]] = {}
    after = ""
    while True:
        path = f"/provider/book?limit={BOOK_PAGE}&after={after}"
        reply = await reader.get(lane, path)
        if reply.status in (404, 501):
            return None  # a real provider's book is not ours to page through
        if reply.status != 200:
            raise Permanent(f"GET {path} answers {reply.status}: {reply.body[:200].decode(errors='replace')}")
        page = _page.decode(reply.body)
        for entry in page.entries:
            found.setdefault(entry.key, []).append(entry)
        if not page.next or page.next == after:
            return found
        after = page.next


async def _body(reader: Reader, lane: Lane, path: str) -> bytes:
    reply = await reader.get(lane, path)
    if reply.status != 200:
        raise Permanent(f"GET {path} answers {reply.status}: {reply.body[:200].decode(errors='replace')}")
    return reply.body
