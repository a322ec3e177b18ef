"""The port to a payment provider: what Millstream asks of it, and what it may rely on.

Made to fit providers with idempotency keys, asynchronous settlement and signed webhooks. On Stripe: `charge` confirms a
PaymentIntent, `ask` retrieves it, `cancel` cancels it, `refund` creates a Refund, all with our key as the
`Idempotency-Key` and in the metadata; `read_webhook` is `Webhook.construct_event`; `book` lists balance transactions.

An adapter promises: a key is charged at most once, however often it is asked for; after `cancel` said `CANCELLED` the
key is never charged; a call that may have been received but was not answered raises `NoAnswer`, and only one that
certainly charged nothing raises `ProviderUnavailable`.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
from millstream import Permanent, Transient

from .domain import Answer

__all__ = [
    "BadSignature",
    "BookEntry",
    "BookPage",
    "Charge",
    "ChargeEvent",
    "Charged",
    "NoAnswer",
    "PaymentProvider",
    "ProviderUnavailable",
    "Refund",
    "Refunded",
]


class NoAnswer(Transient):
    """The provider did not answer: whether it did what it was asked is unknown."""


class ProviderUnavailable(Transient):
    """The provider said that it cannot now; nothing was done."""


class BadSignature(Permanent):
    """A webhook that the provider did not sign, or signed too long ago."""


class Charge(msgspec.Struct, frozen=True):
    """What to charge. key: our payment's id; reference: the order, for people who read the provider's book."""

    key: str
    reference: str
    method: str
    amount: int
    currency: str


class Charged(msgspec.Struct, frozen=True):
    """What is known of a charge. ref: the provider's id of it. amount: what it really took, where it says so."""

    answer: Answer
    ref: str = ""
    reason: str = ""
    amount: int | None = None


class Refund(msgspec.Struct, frozen=True):
    """What to give back. key: our refund's id; charge: the key of the charge, ref: the provider's id of it."""

    key: str
    charge: str
    ref: str
    amount: int
    currency: str


class Refunded(msgspec.Struct, frozen=True):
    """Whether it was given back; else the reason."""

    done: bool
    ref: str = ""
    reason: str = ""


class ChargeEvent(msgspec.Struct, frozen=True):
    """A webhook, its signature checked: news of the charge under `key`. `id` is the same for every delivery of it."""

    id: str
    key: str
    charged: Charged


class BookEntry(msgspec.Struct, frozen=True):
    """One charge as it stands in the provider's book. charges: how often money was taken; calls: how often asked."""

    key: str
    ref: str
    answer: Answer
    amount: int
    refunded: int
    currency: str
    charges: int = 1
    calls: int = 1


class BookPage(msgspec.Struct, frozen=True):
    """A part of the book, in the provider's own order; `next` continues it, empty at the end."""

    entries: tuple[BookEntry, ...]
    next: str


class PaymentProvider(Protocol):
    """A payment provider. Every method but `read_webhook` calls the outside world.

    Raises:
        NoAnswer: the outcome is unknown. ProviderUnavailable: nothing was done.
    """

    async def charge(self, charge: Charge) -> Charged:
        """Take the money, or say what stands in the way. A key that was charged answers what it answered."""
        ...

    async def ask(self, key: str) -> Charged:
        """What became of a key; `NOT_FOUND` when it was never charged."""
        ...

    async def cancel(self, key: str) -> Charged:
        """See to it that a key is never charged: `CANCELLED`, or `SUCCEEDED` when it is too late."""
        ...

    async def refund(self, refund: Refund) -> Refunded:
        """Give money back. A key that was refunded answers what it answered."""
        ...

    async def book(self, after: str, limit: int) -> BookPage:
        """A page of the book, from the position `after` ("" for the beginning)."""
        ...

    def read_webhook(self, body: bytes, signature: str, now_us: int) -> ChargeEvent | None:
        """The news in a webhook; None for a kind that says nothing about a charge.

        Raises:
            BadSignature: it is not the provider's, or older than the tolerance.
        """
        ...
