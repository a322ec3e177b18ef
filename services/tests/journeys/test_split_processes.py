"""The whole system as processes on PostgreSQL and a broker: from the order over HTTP to the letter, and through crashes.

Nothing is in hand here: real processes, real time, real servers. `millstream load` judges: nothing lost, nothing doubled,
books that balance.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from millstream.testing.engines.postgresql import PostgresqlServer

from .engines import Engines
from .split_processes import SplitProcesses, alive, until

SERVICES = ("gateway", "orders", "payments", "notifications")


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    """A server of these tests' own: databases are named like the services."""
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql")) as server:
        yield server


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., SplitProcesses]]:
    made: list[SplitProcesses] = []

    def make(*options: str) -> SplitProcesses:
        made.append(SplitProcesses(tmp_path, *options))
        made[-1].start()
        return made[-1]

    yield make
    for system in made:
        system.close()


# On Kafka and RabbitMQ an order goes this way in each run, too: the README's commands (examples/tests).
PROOF = [("kafka", "/on_kafka"), ("rabbitmq", "/on_rabbitmq")] if os.environ.get("MILLSTREAM_PROOF") else []


@pytest.mark.parametrize(("log", "database"), [("nats", ""), *PROOF])
def test_orders_are_paid_and_told_of_and_nobody_is_left_behind(
    up: Callable[..., SplitProcesses], engines: Engines, postgresql: PostgresqlServer, log: str, database: str
) -> None:
    system = up("--store", postgresql.url + database, "--transport", engines.url(log))
    assert len(system.children()) == len(SERVICES), "a broker was named: none of their own"

    verdict = system.verdict(system.begin_load(30, methods="sim_ok=4,sim_declined=1,sim_late=1"))
    assert (verdict["posted"], verdict["lost"], verdict["doubled"]) == (30, 0, 0)
    assert verdict["confirmed"] > 0
    assert verdict["notified"] == verdict["accepted"] == verdict["confirmed"] + verdict["failed"]

    # Each service made a database of its own, or a schema in the one that was named, and holds its tables alone.
    if database:
        schemas = postgresql.execute("SELECT schemaname FROM pg_tables WHERE tablename = 'orders'", database[1:])
        assert schemas == [("orders",)]
    else:
        tables = "SELECT count(*) FROM pg_tables WHERE tablename = 'orders'"
        assert [postgresql.execute(tables, service)[0][0] for service in SERVICES] == [0, 1, 0, 0]

    assert system.stop() == 0, system.said()
    assert system.left() == []
    assert [event for event in system.events() if event["level"] == "error"] == []


def test_workers_share_a_service_and_a_crash_of_one_or_of_the_log_loses_nothing(
    up: Callable[..., SplitProcesses], engines: Engines, postgresql: PostgresqlServer
) -> None:
    nats = engines.server("nats")
    system = up("--store", f"{postgresql.url}/workers", "--transport", nats.url, "--workers", "2")
    assert len(system.children()) == 2 * len(SERVICES)

    def owners() -> set[str]:
        positions = system.cli("lanes", "--all")["positions"]
        return {row["owner"] for row in positions if row["service"] == "payments"}

    until(lambda: len(owners() - {None}) == 2, "both workers of payments hold some of its claims")

    load = system.begin_load(80, rate="20", methods="sim_ok=4,sim_declined=1,sim_error_then_ok=1")
    killed = system.pid_of("payments-0")
    os.kill(killed, signal.SIGKILL)
    until(lambda: system.pid_of("payments-0") != killed, "the worker is started anew")
    nats.kill()
    nats.start()
    verdict = system.verdict(load)
    assert (verdict["posted"], verdict["lost"], verdict["doubled"]) == (80, 0, 0)
    assert verdict["notified"] == verdict["accepted"]

    # An operator's tools see all of it.
    assert system.cli("dlq", "list")["dead_letters"] == []
    assert {row["service"] for row in system.cli("outbox")["outbox"]} == set(SERVICES)

    assert not alive(killed)
    assert system.stop() == 0, system.said()
    assert system.left() == []
