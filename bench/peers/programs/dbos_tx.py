"""DBOS: the workflow is enqueued in the business transaction; its one step writes the effect with the step's record."""

# pyright: reportMissingImports=false
# (the peer lives in .venv-peers)

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, SQLAlchemyDatasource

from ..workload import IN_FLIGHT, POOL, Task, body, engine, key_of, main, produce_in_threads

URL = engine("postgresql").replace("postgresql://", "postgresql+psycopg://")
QUEUE = "events"
POLL_SECONDS = 0.02
BUSINESS = sa.text("INSERT INTO business (key, n) VALUES (:key, :n)")
EFFECT = sa.text("INSERT INTO effects (key, n) VALUES (:key, :n)")


def _application() -> SQLAlchemyDatasource:
    DBOS(
        config={
            "name": "bench",
            "system_database_url": URL,
            "sys_db_pool_size": POOL,
            "application_version": "1",
            "executor_id": "worker",
            "log_level": "WARNING",
        }
    )
    return SQLAlchemyDatasource.create(URL, engine_kwargs={"pool_size": POOL})


def _provision(_task: Task) -> None:
    _application()
    DBOS.launch()
    _register()
    DBOS.destroy()


def _register() -> None:
    DBOS.register_queue(QUEUE, worker_concurrency=IN_FLIGHT, polling_interval_sec=POLL_SECONDS)


def _produce(task: Task) -> None:
    database = sa.create_engine(URL, pool_size=POOL)
    client = DBOSClient(system_database_url=URL)

    def open_publish() -> Callable[[Sequence[int]], object]:
        def publish(numbers: Sequence[int]) -> None:
            with database.begin() as connection:
                for n in numbers:
                    connection.execute(BUSINESS, {"key": key_of(n), "n": n})
                    client.enqueue_in_transaction(connection, {"workflow_name": "effect", "queue_name": QUEUE}, body(n))

        return publish

    produce_in_threads(task, open_publish)
    client.destroy()


def _work(_task: Task) -> None:
    data = _application()

    def write(key: str, n: int) -> None:
        data.sql_session().execute(EFFECT, {"key": key, "n": n})

    @DBOS.workflow(name="effect")
    def effect(event: dict[str, Any]) -> None:
        data.run_tx_step({"name": "write"}, write, event["key"], event["n"])

    DBOS.launch()
    _register()
    threading.Event().wait()


if __name__ == "__main__":
    main({"provision": _provision, "produce": _produce, "work": _work})
