"""Millstream: event-driven services in which one transaction carries inbox, business data and outbox."""

from .caller import Caller
from .delivery.subscription import Sequence
from .delivery.tx import Call, Query, Tx
from .errors import Drop, MillstreamError, Misconfigured, Permanent, Refused, Transient
from .message import Event, Message, event
from .resilience.backoff import Retry
from .service.context import ServiceContext
from .service.service import Service
from .service.state_machine import StateMachine

__all__ = [
    "Call",
    "Caller",
    "Drop",
    "Event",
    "Message",
    "MillstreamError",
    "Misconfigured",
    "Permanent",
    "Query",
    "Refused",
    "Retry",
    "Sequence",
    "Service",
    "ServiceContext",
    "StateMachine",
    "Transient",
    "Tx",
    "event",
]
