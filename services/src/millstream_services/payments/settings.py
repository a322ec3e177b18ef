"""What can be configured about payments (`[services.payments]`). Durations read "1s", "15m" or are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from millstream.clock import seconds
from millstream.errors import Misconfigured

__all__ = ["PaymentSettings", "read_settings"]

Span = str | float
"""A duration as configuration has it: "1s", "15m", or seconds."""


class PaymentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The defaults are for the simulated provider on one machine.

    provider: which adapter; `simulated` is built in.
    ask_after: how long an unanswered or pending charge waits for the first question; the next ones wait twice as long
        each, at most a minute.
    settle_limit: how long a charge that the provider has accepted, or left unanswered, may stay unsettled. Then it is
        cancelled there; the payment fails and an operator gets a case.
    start_ask, start_limit: the same two for a charge whose call nobody heard of since it was requested: it waits for its
        turn behind a backlog, or its process died over it and took the answer along.
    webhook_secret: what webhooks are signed with; several separated by spaces while one replaces the other. Empty: the
        simulated provider's own.
    answer_timeout, settle_after: of the simulated provider: how long it keeps a caller waiting for no answer, and how
        long a late settlement takes.
    """

    provider: str = "simulated"
    ask_after: Span = "1s"
    settle_limit: Span = "30s"
    start_ask: Span = "1m"
    start_limit: Span = "15m"
    webhook_secret: str = ""
    answer_timeout: Span = "500ms"
    settle_after: Span = "2s"

    @property
    def ask_after_us(self) -> int:
        return round(seconds(self.ask_after) * 1e6)

    @property
    def settle_limit_us(self) -> int:
        return round(seconds(self.settle_limit) * 1e6)

    @property
    def start_ask_us(self) -> int:
        return round(seconds(self.start_ask) * 1e6)

    @property
    def start_limit_us(self) -> int:
        return round(seconds(self.start_limit) * 1e6)

    @property
    def secrets(self) -> tuple[bytes, ...]:
        return tuple(part.encode() for part in self.webhook_secret.split())


def read_settings(raw: Mapping[str, Any]) -> PaymentSettings:
    """The settings of a mapping whose values may all be texts.

    Raises:
        Misconfigured: an unknown key, a wrong type, or a duration that is none.
    """
    try:
        settings = msgspec.convert(dict(raw), PaymentSettings, strict=False)
    except msgspec.ValidationError as error:
        raise Misconfigured(f"[services.payments]: {error}") from error
    for duration in (settings.ask_after, settings.settle_limit, settings.start_ask, settings.start_limit):
        if seconds(duration) <= 0:
            raise Misconfigured(f"[services.payments]: {duration!r}: a limit is above 0")
    if settings.provider != "simulated":
        raise Misconfigured(f"[services.payments] provider = {settings.provider!r}: there is 'simulated'")
    return settings
