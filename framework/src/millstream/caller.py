"""Who calls, and for how long they wait: what travels with a request from edge to service to service."""

from __future__ import annotations

import msgspec

__all__ = ["Caller"]


class Caller(msgspec.Struct, frozen=True):
    """The authenticated sender of a request. Handlers of routes and contracts take it as a parameter.

    `subject` scopes idempotency keys and ownership. `deadline_us` is the wall-clock moment (microseconds) after which
    the caller no longer waits. `idempotency_key` is the one the request carried, to be passed on to the service that
    owns the work: `await orders.place_order(request, caller=caller)` passes all of this on.
    """

    subject: str
    roles: tuple[str, ...] = ()
    tenant: str | None = None
    idempotency_key: str | None = None
    deadline_us: int | None = None
    traceparent: str | None = None
    correlation_id: str | None = None

    def may(self, role: str) -> bool:
        """Whether the caller holds a role."""
        return role in self.roles
