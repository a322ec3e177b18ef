"""Every metric and span that exists, in one table. `docs/telemetry.md` is generated from it.

Code writes these names as they stand here, so that a search finds from a dashboard to the line that counts and back.
Labels are given in the order of the declaration. A name that is not here raises in tests and is reported once elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["METRICS", "SPANS", "Kind", "Metric", "SpanKind", "SpanName", "Unit"]

Kind = Literal["counter", "gauge", "histogram"]
Unit = Literal[
    "messages", "records", "rows", "lanes", "keys", "claims", "partitions", "seconds", "transactions", "requests", "1"
]
SpanKind = Literal["internal", "server", "client", "producer", "consumer"]

_TIME_BOUNDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
)  # fmt: skip
_SIZE_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)

_SERVICE = ("service",)
_SUBSCRIPTION = ("service", "subscription")
_TOPIC = ("service", "topic")
_STORE = ("store",)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `bounds` are the upper bounds of a histogram's buckets, ascending."""

    name: str
    kind: Kind
    unit: Unit
    labels: tuple[str, ...]
    meaning: str
    bounds: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class SpanName:
    """One kind of span. `attributes` maps what the code calls a field to its name in an exported span.

    `title` is what a person reads in a trace viewer; it may name fields in braces.
    """

    name: str
    kind: SpanKind
    title: str
    attributes: tuple[tuple[str, str], ...]
    meaning: str


def _counter(name: str, unit: Unit, labels: tuple[str, ...], meaning: str) -> Metric:
    return Metric(f"millstream_{name}_total", "counter", unit, labels, meaning)


def _gauge(name: str, unit: Unit, labels: tuple[str, ...], meaning: str) -> Metric:
    return Metric(f"millstream_{name}", "gauge", unit, labels, meaning)


def _times(name: str, labels: tuple[str, ...], meaning: str) -> Metric:
    return Metric(f"millstream_{name}_seconds", "histogram", "seconds", labels, meaning, _TIME_BOUNDS)


_ALL_METRICS = (
    # The way out: outbox, relay, timers.
    _gauge("outbox_rows", "rows", _SERVICE, "Rows of the outbox that wait to be published."),
    _gauge("outbox_oldest_age_seconds", "seconds", _SERVICE, "Age of the oldest row of the outbox; 0 when it is empty."),
    _counter("relayed", "records", _SERVICE, "Rows deleted from the outbox because the log confirmed them."),
    _counter("log_published", "records", _TOPIC, "Records handed to the log, repeats included."),
    _counter("log_confirmed", "records", _TOPIC, "Records that the log confirmed as durable."),
    _times("log_publish", _SERVICE, "Time of one publish call, until the log's answer."),
    _gauge("held_keys", "keys", _SERVICE, "Keys held because the log refused a record of theirs for good."),
    _gauge("timers_due", "rows", _SERVICE, "Timers that are due and not yet in the outbox."),
    # The way in: intakes, claims, batches, handlers.
    _counter("intake_accepted", "messages", ("service", "intake"), "Messages of foreign queues that were made durable here."),
    _gauge("lag_messages", "messages", _SUBSCRIPTION, "Ends of the log minus positions, summed over the partitions."),
    _counter("messages_handled", "messages", _SUBSCRIPTION, "Messages whose handler succeeded and committed."),
    _counter("messages_failed", "messages", _SUBSCRIPTION, "Verdicts of a handler that were an exception."),
    _counter("messages_retried", "messages", _SUBSCRIPTION, "Failed messages that got a time to be tried again."),
    _counter("messages_parked", "messages", _SUBSCRIPTION, "Messages put into the store to wait in their lane."),
    _counter("messages_skipped", "messages", _SUBSCRIPTION, "Messages of types that the subscription does not take."),
    _counter("messages_dropped", "messages", _SUBSCRIPTION, "Messages that a handler asked to forget."),
    _counter("dead_letters", "messages", _SUBSCRIPTION, "Messages that became dead letters."),
    _counter("messages_duplicate", "messages", _SUBSCRIPTION, "Copies of accepted messages, dropped by the inbox."),
    _gauge("parked_messages", "messages", _SUBSCRIPTION, "Messages parked now."),
    _gauge("lanes_waiting", "lanes", _SUBSCRIPTION, "Lanes whose head waits for its next try."),
    _gauge("lanes_held", "lanes", _SUBSCRIPTION, "Lanes held by a dead letter until somebody decides."),
    _gauge("dead_letters_waiting", "messages", _SUBSCRIPTION, "Dead letters that wait for somebody to decide."),
    _gauge("partitions_blocked", "partitions", _SUBSCRIPTION, "Partitions not read because too many messages are parked."),
    _times("handler", _SUBSCRIPTION, "Time of a handler per message: of a batch, its mean, counted once a message."),
    _times("effect_call", _SUBSCRIPTION, "Time of one call of an effect."),
    _times("batch", _SUBSCRIPTION, "Time of one transaction over a batch of messages, until its commit."),
    _gauge("claims_held", "claims", _SERVICE, "Claims this process holds."),
    _counter("claims_taken", "claims", _SERVICE, "Claims this process took, free or from a holder that had expired."),
    _counter("claims_lost", "claims", _SERVICE, "Claims that another worker took from this process."),
    # The store.
    _counter("store_commits", "transactions", _STORE, "Commits of the store; a group commit counts once."),
    _counter("store_transactions", "transactions", _STORE, "Transactions that those commits made durable."),
    Metric(
        "millstream_store_group_transactions", "histogram", "transactions", _STORE,
        "Transactions that shared one commit.", _SIZE_BOUNDS,
    ),
    _times("store_transaction", _STORE, "Time of a transaction, from its first statement to its durable commit."),
    _times("store_checkpoint", _STORE, "Time of a checkpoint of the write-ahead log."),
    # The edge.
    _counter(
        "http_requests", "requests", ("service", "method", "route", "status"),
        "Requests answered; the route as declared, the status as its class: 2xx, 4xx.",
    ),
    _times("http_request", ("service", "method", "route"), "Time from a request's head to the end of its reply."),
    _gauge("http_in_flight", "requests", _SERVICE, "Requests being answered."),
    _counter("http_shed", "requests", _SERVICE, "Requests refused because a bound was reached."),
    # The process.
    _counter("task_restarts", "1", _SERVICE, "Tasks that the supervisor started again."),
    _gauge("ready", "1", _SERVICE, "1 while the service answers that it is ready, else 0."),
    _counter(
        "telemetry_lost", "1", ("what",),
        "What telemetry itself could not keep: log_line, label_set (folded into `other`), gauge (its reading failed).",
    ),
)  # fmt: skip

_PLACE = (("service", "millstream.service"), ("subscription", "millstream.subscription"))
_LOG_PLACE = (("topic", "messaging.destination.name"), ("partition", "messaging.destination.partition.id"))
_MESSAGES = ("messages", "messaging.batch.message_count")
_MESSAGE = (("message_id", "messaging.message.id"), ("event_type", "millstream.event_type"))

_ALL_SPANS = (
    SpanName(
        "millstream.http.request", "server", "{method} {route}",
        (
            ("service", "millstream.service"), ("method", "http.request.method"), ("route", "http.route"),
            ("status", "http.response.status_code"),
        ),
        "A request at the HTTP edge, until the end of its reply.",
    ),
    SpanName(
        "millstream.contract.call", "client", "{contract}.{method}",
        (("service", "millstream.service"), ("contract", "rpc.service"), ("method", "rpc.method")),
        "A call to another service, seen by the caller.",
    ),
    SpanName(
        "millstream.contract.serve", "server", "{contract}.{method}",
        (("service", "millstream.service"), ("contract", "rpc.service"), ("method", "rpc.method")),
        "A call from another service, seen by the one that answers.",
    ),
    SpanName(
        "millstream.relay", "producer", "publish {topic}", (_PLACE[0], *_LOG_PLACE, _MESSAGES),
        "One publish call of the relay.",
    ),
    SpanName(
        "millstream.batch", "consumer", "{subscription}", (*_PLACE, *_LOG_PLACE, _MESSAGES),
        "One transaction of a subscription over a batch of messages.",
    ),
    SpanName(
        "millstream.parked", "consumer", "{subscription}", (*_PLACE, *_MESSAGE, ("attempt", "millstream.attempt")),
        "One try of a parked message.",
    ),
    SpanName(
        "millstream.effect", "client", "{subscription}", (*_PLACE, *_MESSAGE, ("attempt", "millstream.attempt")),
        "One call of an effect to the outside world.",
    ),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL_METRICS}
"""By name."""

SPANS: dict[str, SpanName] = {span.name: span for span in _ALL_SPANS}
"""By name."""

if len(METRICS) != len(_ALL_METRICS) or len(SPANS) != len(_ALL_SPANS):
    raise AssertionError("a name is declared twice")
