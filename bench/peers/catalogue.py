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
from .workload import IN_FLIGHT, POOL, REDELIVERY_SECONDS

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
        for per_tx in ((1, 20) if engine in {"nats", "kafka", "postgresql"} else (1,))
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
            redelivery_seconds=REDELIVERY_SECONDS,
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
            settings="durable tables; batches of 50, 50 at once; jobs of a dead worker come back after 10 s",
            program=_python("pgqueuer_tx"),
            provisions=True,
            redelivery_seconds=REDELIVERY_SECONDS,
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
                redelivery_seconds=REDELIVERY_SECONDS if engine == "nats" else 0.0,
            )
            for engine, shown, settings in (
                ("nats", "NATS", "JetStream, sync_interval always, message ids, durable push consumer, explicit ack"),
                ("kafka", "Kafka", "acks all, idempotent producer, key as partition key, consumer group, 8 partitions"),
            )
        ),
    ]


def _more_on_postgresql() -> list[Row]:
    return [
        *(
            Row(
                name="procrastinate" + ("-lock" if lock else ""),
                group="procrastinate",
                shown="Procrastinate" + (", lock per key" if lock else ""),
                engines=("postgresql",),
                guarantee="tx",
                order=bool(lock),
                once=False,
                settings=f"{IN_FLIGHT} at once; stalled jobs are retried after 10 s" + lock,
                program=_python("procrastinate_tx"),
                provisions=True,
                kill_events=3_000,
                redelivery_seconds=REDELIVERY_SECONDS + 5.0,
                environment={"PEER_LOCK": "yes"} if lock else {},
            )
            for lock in ("", "; each job takes its event's key as lock")
        ),
        Row(
            name="dbos",
            group="dbos",
            shown="DBOS",
            engines=("postgresql",),
            guarantee="tx",
            order=False,
            once=True,
            settings=f"enqueue_in_transaction; {IN_FLIGHT} workflows at once, queue polled every 20 ms; the effect in a datasource's transaction",
            program=_python("dbos_tx"),
            provisions=True,
            kill_events=1_500,
        ),
    ]


def _faststream() -> list[Row]:
    rows = (
        ("nats", "NATS", "JetStream, sync_interval always; durable pull consumer", {}),
        ("kafka", "Kafka", "acks all, idempotent producer; consumer group, commits after the handler", {}),
        (
            "kafka-500",
            "Kafka, batches",
            "the same; a handler call and a transaction for up to 500 events",
            {"PEER_BATCH": "500"},
        ),
        ("rabbitmq", "RabbitMQ", "quorum queue, publisher confirms, prefetch", {}),
        ("redis", "Redis", "Streams, appendfsync always; consumer group, a second subscriber claims after 10 s", {}),
    )
    return [
        Row(
            name=f"faststream-{name}",
            group="faststream",
            shown=f"FastStream {shown}",
            engines=("postgresql", name.partition("-")[0]),
            guarantee="dual",
            order=name.startswith("kafka"),
            once=False,
            settings=settings + ("" if environment else f"; {IN_FLIGHT} handlers at once"),
            program=_python("faststream_" + name.partition("-")[0]),
            provisions=True,
            kill_events=3_000 if name == "kafka" else 5_000,
            redelivery_seconds=REDELIVERY_SECONDS if name in {"nats", "redis"} else 0.0,
            environment=environment,
        )
        for name, shown, settings, environment in rows
    ]


def _task_queues() -> list[Row]:
    celery = [str(PYTHON), "-m", "celery", "--app", "bench.peers.programs.celery_app", "worker"]
    celery += ["--concurrency", "8", "--loglevel", "WARNING", "--without-gossip", "--without-mingle"]
    dramatiq = [
        str(PYTHON),
        "-m",
        "dramatiq",
        "bench.peers.programs.dramatiq_app",
        "--processes",
        "1",
        "--threads",
        str(POOL),
    ]
    taskiq = [str(PYTHON), "-m", "taskiq", "worker", "bench.peers.programs.taskiq_app:broker", "--workers", "1"]
    taskiq += ["--ack-type", "when_executed", "--max-async-tasks", str(IN_FLIGHT), "--max-prefetch", str(IN_FLIGHT)]
    taskiq += ["--log-level", "WARNING"]
    rows = (
        (
            "celery",
            "rabbitmq",
            "quorum queue, confirms; acks_late, reject_on_worker_lost; 8 processes, prefetch 4 each",
            celery,
        ),
        ("dramatiq", "rabbitmq", f"durable classic queue (it has no other), confirms; {POOL} threads", dramatiq),
        ("dramatiq", "redis", f"appendfsync always; heartbeat_timeout 10 s; {POOL} threads", dramatiq),
        (
            "taskiq",
            "nats",
            f"JetStream, sync_interval always; pull consumer; acked when executed; {IN_FLIGHT} at once",
            taskiq,
        ),
        (
            "taskiq",
            "redis",
            f"Streams, appendfsync always; acked when executed; idle_timeout 10 s; {IN_FLIGHT} at once",
            taskiq,
        ),
    )
    shown = {"rabbitmq": "RabbitMQ", "redis": "Redis", "nats": "NATS"}
    return [
        Row(
            name=f"{peer}-{engine}",
            group=peer,
            shown=f"{peer.capitalize()} {shown[engine]}",
            engines=("postgresql", engine),
            guarantee="dual",
            order=False,
            once=False,
            settings=settings,
            program=_python(f"{peer}_app"),
            work=worker,
            redelivery_seconds=0.0 if engine == "rabbitmq" else REDELIVERY_SECONDS,
            environment={"PEER_BROKER": engine},
        )
        for peer, engine, settings, worker in rows
    ]


ROWS: tuple[Row, ...] = (
    *_millstream("nats", "kafka", "postgresql", "rabbitmq", "redis"),
    *_bare(),
    *_peers(),
    *_faststream(),
    *_more_on_postgresql(),
    *_task_queues(),
)


def chosen(names: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows that these names or groups mean, all of them for no name; and the names that mean none."""
    known = {name for row in ROWS for name in (row.name, row.group)}
    rows = [row for row in ROWS if not names or {row.name, row.group} & set(names)]
    return rows, [name for name in names if name not in known]
