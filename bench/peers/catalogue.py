"""The rows of the table: who is measured, in which way of use, with which settings and which promise.

Every row states what its documentation recommends for work that must not be lost. `tx`: the event is in the business row's own
transaction; `dual`: the row is committed, then the event is published, and a crash in between loses it. The order is that of
importance: a run that reaches its time limit leaves out the last ones.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from .database import Tables
from .processes import ROOT
from .row import Row

__all__ = ["PYTHON", "ROWS", "WATERMILL", "chosen"]

PYTHON = ROOT / ".venv-peers" / "bin" / "python"
WATERMILL = ROOT / "bench" / "scratch" / "watermill"
"""The program that `__main__` builds from `watermill/`."""


def _python(module: str) -> list[str]:
    return [str(PYTHON), "-m", f"bench.peers.programs.{module}"]


def _millstream(*engines: str) -> list[Row]:
    names = {"nats": "NATS", "kafka": "Kafka", "postgresql": "PostgreSQL as the log", "rabbitmq": "RabbitMQ streams"}
    settings = {
        "nats": "JetStream, sync_interval always",
        "kafka": "acks all, idempotent producer",
        "postgresql": "synchronous_commit on",
        "rabbitmq": "stream queues, confirms",
        "redis": "Streams, appendfsync always",
    }
    return [
        Row(
            name=f"millstream-{engine}" + ("" if per_tx == 1 else f"-{per_tx}"),
            group="millstream",
            shown=f"Millstream, {names.get(engine, 'Redis')}" + ("" if per_tx == 1 else f", {per_tx} per tx"),
            engines=tuple(dict.fromkeys(("postgresql", engine))),
            guarantee="tx",
            order=True,
            once=True,
            settings=f"PostgreSQL store with inbox; {settings[engine]}; defaults: batches of 500, 8 partitions, telemetry on",
            program=[sys.executable, "-m", "bench.peers.ours"],
            provisions=True,
            relay="producer",
            relayed="SELECT coalesce((SELECT min(id) FROM producer.millstream_outbox) - 1, $events)",
            fill="fill",
            per_tx=per_tx,
            kills=per_tx == 1,
            tables=Tables("producer", "consumer"),
            environment={"PEER_TRANSPORT": engine},
        )
        for engine in engines
        for per_tx in (1, 20)
    ]


def _bare() -> list[Row]:
    return [
        Row(
            name="bare-asyncpg",
            group="bare",
            shown="bare asyncpg, queue table, tx of one",
            engines=("postgresql",),
            guarantee="tx",
            order=True,
            once=True,
            settings="one worker connection: 500 rows deleted and their effects written in one transaction; NOTIFY at commit",
            program=_python("bare_postgresql"),
            provisions=True,
        ),
        Row(
            name="bare-asyncpg-100",
            group="bare",
            shown="bare asyncpg, queue table, tx of 100",
            engines=("postgresql",),
            guarantee="tx",
            order=True,
            once=True,
            settings="the same; 100 business rows and events per transaction",
            program=_python("bare_postgresql"),
            provisions=True,
            per_tx=100,
            kills=False,
        ),
        Row(
            name="bare-nats",
            group="bare",
            shown="bare outbox → NATS",
            engines=("postgresql", "nats"),
            guarantee="tx",
            order=False,
            once=True,
            settings="outbox in the producer's process; JetStream, sync_interval always; pull consumer, batches of 500, inbox, ack after commit",
            program=_python("bare_nats"),
            provisions=True,
            relay="producer",
            relayed="SELECT coalesce((SELECT min(id) FROM outbox) - 1, $events)",
            fill="fill",
            redelivery_seconds=30.0,
        ),
    ]


def _peers() -> list[Row]:
    return [
        Row(
            name="pgqueuer",
            group="pgqueuer",
            shown="PgQueuer",
            engines=("postgresql",),
            guarantee="tx",
            order=False,
            once=False,
            settings="durable tables; batches of 50, 50 at once; jobs of a dead worker come back after 30 s",
            program=_python("pgqueuer_tx"),
            provisions=True,
            redelivery_seconds=30.0,
        ),
        Row(
            name="pgqueuer-100",
            group="pgqueuer",
            shown="PgQueuer, 100 per tx",
            engines=("postgresql",),
            guarantee="tx",
            order=False,
            once=False,
            settings="the same with enqueue of 100 jobs at once, batches of 500, 500 at once",
            program=_python("pgqueuer_tx"),
            provisions=True,
            per_tx=100,
            kills=False,
            environment={"PEER_BATCH": "500"},
        ),
        Row(
            name="faststream-nats",
            group="faststream",
            shown="FastStream NATS",
            engines=("postgresql", "nats"),
            guarantee="dual",
            order=False,
            once=False,
            settings="JetStream, sync_interval always; durable pull consumer, manual ack, 50 workers",
            program=_python("faststream_nats"),
            provisions=True,
            redelivery_seconds=30.0,
        ),
        Row(
            name="watermill-sql",
            group="watermill",
            shown="Watermill SQL (Go)",
            engines=("postgresql",),
            guarantee="tx",
            order=True,
            once=True,
            settings="DefaultPostgreSQLSchema, batches of 100, polled every 5 ms; the effect in the subscriber's transaction",
            program=[str(WATERMILL), "sql"],
            provisions=True,
        ),
        *(
            Row(
                name=f"watermill-{engine}",
                group="watermill",
                shown=f"Watermill forwarder → {shown} (Go)",
                engines=("postgresql", engine),
                guarantee="tx",
                order=engine == "kafka",
                once=False,
                settings=f"SQL outbox polled every 5 ms, forwarder in a process of its own; {settings}",
                program=[str(WATERMILL), engine],
                provisions=True,
                relay="process",
                relayed="SELECT max(offset_acked) FROM watermill_offsets_outbox",
                redelivery_seconds=30.0 if engine == "nats" else 0.0,
            )
            for engine, shown, settings in (
                ("nats", "NATS", "JetStream, sync_interval always, message ids, durable push consumer, explicit ack"),
                ("kafka", "Kafka", "acks all, idempotent producer, key as partition key, consumer group, 8 partitions"),
            )
        ),
    ]


ROWS: tuple[Row, ...] = (
    *_millstream("nats", "kafka", "postgresql"),
    *_bare(),
    *_peers(),
    *_millstream("rabbitmq", "redis"),
)


def chosen(names: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows that these names or groups mean, all of them for no name; and the names that mean none."""
    known = {name for row in ROWS for name in (row.name, row.group)}
    rows = [row for row in ROWS if not names or {row.name, row.group} & set(names)]
    return rows, [name for name in names if name not in known]
