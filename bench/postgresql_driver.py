"""Which driver for PostgreSQL: rule T5 measured. `python bench/postgresql_driver.py` writes its result below `results/`.

Two shapes of the kernel, each with every candidate on the same server, in turns:

- one: a transaction with one event: business row, slot lock, outbox row, commit, by several at once;
- batch: 500 messages: position, inbox by arrays, 500 statements of handlers, commit, one after the other.

The client's CPU a transaction counts as much as the rate: the rest of the framework runs in the same process.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import uvloop
from machine import describe
from millstream.postgresql.connection import Bound, Connection, Exchange, connect
from millstream.postgresql.values import array, encoded
from millstream.testing.engines.postgresql import PostgresqlServer

SECONDS = float(os.environ.get("MILLSTREAM_BENCH_SECONDS", "2"))
ROUNDS = 3
KEYS = 1_000
BATCH = 500
VALUE = b"x" * 200
TABLES = """
CREATE TABLE business (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text, n bigint);
CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, slot bigint, topic text, key text, value bytea);
CREATE TABLE claims (id bigint PRIMARY KEY, position bigint);
CREATE TABLE inbox (source text, id text, time bigint, PRIMARY KEY (source, id));
INSERT INTO claims VALUES (1, 0);
"""
BUSINESS = "INSERT INTO business (key, n) VALUES ($1, $2)"
LOCK = "SELECT pg_advisory_xact_lock(1, $1)"
OUTBOX = "INSERT INTO outbox (slot, topic, key, value) VALUES ($1, $2, $3, $4)"
CLAIM = "UPDATE claims SET position = $1 WHERE id = 1"
INBOX = (
    "INSERT INTO inbox (source, id, time) SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) "
    "ON CONFLICT DO NOTHING RETURNING source, id"
)
One = Callable[[int], Awaitable[None]]


def _batch(number: int) -> tuple[list[str], list[str], list[int]]:
    return ["/shop"] * BATCH, [f"{number}-{n}" for n in range(BATCH)], list(range(BATCH))


class Asyncpg:
    """Statement by statement: it has no pipeline; `executemany` is one for a single statement."""

    name = "asyncpg"

    async def open(self, url: str) -> None:
        self.c = await asyncpg.connect(f"{url}/bench")

    async def one(self, number: int) -> None:
        key = f"k{number % KEYS}"
        async with self.c.transaction():
            await self.c.execute(BUSINESS, key, number)
            await self.c.execute(LOCK, number % 128)
            await self.c.execute(OUTBOX, number % 128, "orders", key, VALUE)

    async def batch(self, number: int) -> None:
        async with self.c.transaction():
            await self.c.execute(CLAIM, number)
            await self.c.fetch(INBOX, *_batch(number))
            await self.c.executemany(BUSINESS, [(f"k{n}", n) for n in range(BATCH)])

    async def close(self) -> None:
        await self.c.close()


class Psycopg:
    """psycopg's own asynchronous pipeline."""

    name = "psycopg pipeline"

    async def open(self, url: str) -> None:
        self.c = await psycopg.AsyncConnection.connect(f"{url}/bench", autocommit=True, prepare_threshold=1)
        self.sql = [_percent(text) for text in (BUSINESS, LOCK, OUTBOX, CLAIM, INBOX)]

    async def one(self, number: int) -> None:
        key, (business, lock, outbox, _, _) = f"k{number % KEYS}", self.sql
        async with self.c.pipeline() as pipeline:
            await self.c.execute(b"BEGIN")
            await self.c.execute(business, (key, number))
            await pipeline.sync()  # the handler reads how many rows changed
            await self.c.execute(lock, (number % 128,))
            await self.c.execute(outbox, (number % 128, "orders", key, VALUE))
            await self.c.execute(b"COMMIT")

    async def batch(self, number: int) -> None:
        business, _, _, claim, inbox = self.sql
        async with self.c.pipeline() as pipeline:
            await self.c.execute(b"BEGIN")
            await self.c.execute(claim, (number,))
            await pipeline.sync()
            await (await self.c.execute(inbox, _batch(number))).fetchall()
            async with self.c.cursor() as cursor:
                await cursor.executemany(business, [(f"k{n}", n) for n in range(BATCH)])
            await self.c.execute(b"COMMIT")

    async def close(self) -> None:
        await self.c.close()


class Pipelined:
    """libpq's pipeline mode as psycopg.pq gives it, driven by `millstream.postgresql.connection`."""

    name = "psycopg.pq"
    c: Connection

    async def open(self, url: str) -> None:
        self.c = await connect(f"{url}/bench", {}, 10.0)

    async def _send(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def done(exchange: Exchange) -> None:
            assert exchange.error is None, exchange.error.error_message
            future.set_result(None)

        bound: list[Bound] = [(text.encode(), encoded(params)) for text, params in statements]
        self.c.send(bound, done)
        await future

    async def one(self, number: int) -> None:
        key, slot = f"k{number % KEYS}", number % 128
        await self._send(("BEGIN", ()), (BUSINESS, (key, number)))
        await self._send((LOCK, (slot,)), (OUTBOX, (slot, "orders", key, VALUE)), ("COMMIT", ()))

    async def batch(self, number: int) -> None:
        await self._send(("BEGIN", ()), (CLAIM, (number,)))
        arrays = tuple(array(column, False)[0].decode() for column in _batch(number))
        await self._send((INBOX, arrays))
        await self._send(*[(BUSINESS, (f"k{n}", n)) for n in range(BATCH)])
        await self._send(("COMMIT", ()))

    async def close(self) -> None:
        self.c.close()


def _percent(sql: str) -> bytes:
    for number in range(1, 5):
        sql = sql.replace(f"${number}", "%s")
    return sql.encode()


async def _measured(kind: type[Any], url: str, at_once: int, shape: str, counter: list[int]) -> dict[str, float]:
    candidates = [kind() for _ in range(at_once)]
    for candidate in candidates:
        await candidate.open(url)
    until, done = 0.0, 0

    async def work(run: One) -> None:
        nonlocal done
        while time.perf_counter() < until:
            counter[0] += 1
            await run(counter[0])
            done += 1

    until = time.perf_counter() + 0.3  # warm: statements are prepared
    await _all(work, candidates, shape)
    done, began, cpu = 0, time.perf_counter(), time.process_time()
    until = began + SECONDS
    await _all(work, candidates, shape)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    for candidate in candidates:
        await candidate.close()
    return {"rate": done / took, "client_cpu_us": used / done * 1e6}


async def _all(work: Callable[[One], Awaitable[None]], candidates: list[Any], shape: str) -> None:
    async with asyncio.TaskGroup() as group:
        for candidate in candidates:
            group.create_task(work(getattr(candidate, shape)))  # type: ignore[arg-type] - a coroutine function


def main() -> None:
    rows: list[dict[str, Any]] = []
    counter = [0]
    with tempfile.TemporaryDirectory() as folder, PostgresqlServer(Path(folder)) as server:
        server.execute("CREATE DATABASE bench")
        for statement in TABLES.strip().split(";\n"):
            server.execute(statement, "bench")
        for shape, at_once in (("one", 1), ("one", 8), ("one", 16), ("one", 32), ("batch", 1)):
            for kind in (Asyncpg, Psycopg, Pipelined):
                measured = [uvloop.run(_measured(kind, server.url, at_once, shape, counter)) for _ in range(ROUNDS)]
                row = {
                    "shape": shape,
                    "at_once": at_once,
                    "driver": kind.name,
                    "tx_per_s": round(statistics.median(m["rate"] for m in measured)),
                    "client_cpu_us_per_tx": round(statistics.median(m["client_cpu_us"] for m in measured), 1),
                    "load": os.getloadavg()[0],
                }
                rows.append(row)
                print(
                    f"{shape:6} {at_once:3} {kind.name:17} {row['tx_per_s']:7} tx/s {row['client_cpu_us_per_tx']:9} us CPU"
                )
        result = {"machine": describe(Path(folder)), "seconds": SECONDS, "rounds": ROUNDS, "rows": rows}
        result["versions"] = {
            "psycopg": psycopg.__version__,
            "libpq": psycopg.pq.version(),
            "asyncpg": asyncpg.__version__,
            "postgresql": str(server.execute("SHOW server_version")[0][0]),
        }
    path = Path(__file__).parent / "results" / f"postgresql-driver-{datetime.now(UTC):%Y-%m-%d}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path, file=sys.stderr)


if __name__ == "__main__":
    main()
