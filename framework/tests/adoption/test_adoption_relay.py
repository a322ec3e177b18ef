"""`millstream relay` forwards an application's outbox, as a process of its own: killed, doubled, drained, misused."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import psycopg
import pytest
import sqlalchemy as sa
from millstream.adoption import Outbox, tables
from millstream.adoption.relay_store import source_of
from millstream.cli.app import run
from millstream.clock import SystemClock
from millstream.delivery.relay import SWEEP_SECONDS
from millstream.ports.instrumentation import Silent
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer
from sqlalchemy.orm import Session

from .application import PATIENCE_SECONDS, Database, Order, Placed, until
from .relaying import RelayProcess, first_occurrences, records_of

outbox = Outbox("shop")
KEYS = [f"k{n}" for n in range(20)]
EACH = 20


@pytest.fixture
def log(either: Database, tmp_path: Path) -> Iterator[str]:
    """A log on another engine than the application's, with no topic in it."""
    if either.kind == "sqlite":
        either.server.execute("DROP DATABASE IF EXISTS log WITH (FORCE)")
        either.server.execute("CREATE DATABASE log")
        yield f"{either.server.url}/log"
        return
    with NatsServer(tmp_path) as server:
        yield server.url


def publish_all(url: str, rounds: range) -> None:
    """As a busy application: transactions of a few orders each, every key's events numbered."""
    engine = sa.create_engine(url)
    dice = random.Random(7)
    for number in rounds:
        keys = dice.sample(KEYS, len(KEYS))
        for at in range(0, len(keys), 4):
            with Session(engine) as session:
                for key in keys[at : at + 4]:
                    session.add(Order(id=f"{key}-{number}"))
                    outbox.publish(Placed(key, str(number)), connection=session)
                session.commit()
    engine.dispose()


def left(database: Database) -> int:
    return database.rows("SELECT count(*) FROM millstream_outbox")[0][0]


def oldest(database: Database) -> int:
    return database.rows("SELECT coalesce(min(id), 0) FROM millstream_outbox")[0][0]


async def test_a_relay_that_is_killed_again_and_again_loses_nothing_and_keeps_the_order(
    either: Database, log: str, tmp_path: Path
) -> None:
    writing = Thread(target=publish_all, args=(either.alchemy(), range(EACH)))
    writing.start()
    try:
        for _ in range(3):
            with RelayProcess(tmp_path, either.url, log) as relay:
                begun = oldest(either)
                until(lambda begun=begun: oldest(either) > begun or not writing.is_alive())
                relay.kill()  # in the middle of its work, and of what is written meanwhile
    finally:
        writing.join()
    publish_all(either.alchemy(), range(EACH, EACH + 2))
    with RelayProcess(tmp_path, either.url, log) as relay:
        until(lambda: left(either) == 0, "rows stayed in the outbox")
        assert relay.terminate() == 0
    records = await records_of(log, tmp_path, len(KEYS) * EACH)
    assert first_occurrences(records) == {key: [*range(EACH + 2)] for key in KEYS}


async def test_two_relays_at_once_disorder_nothing(either: Database, log: str, tmp_path: Path) -> None:
    with RelayProcess(tmp_path, either.url, log) as one, RelayProcess(tmp_path, either.url, log) as other:
        publish_all(either.alchemy(), range(EACH))
        until(lambda: left(either) == 0, "rows stayed in the outbox")
        assert (one.terminate(), other.terminate()) == (0, 0)
    assert first_occurrences(await records_of(log, tmp_path, len(KEYS) * EACH)) == {key: [*range(EACH)] for key in KEYS}


@pytest.mark.parametrize("either", ["postgresql"], indirect=True)
async def test_sigterm_lets_it_finish_the_rows_at_hand_and_repeats_none(
    either: Database, log: str, tmp_path: Path
) -> None:
    publish_all(either.alchemy(), range(EACH))
    with RelayProcess(tmp_path, either.url, log) as relay:
        begun = oldest(either)
        until(lambda: oldest(either) != begun)
        assert relay.terminate() == 0
    with RelayProcess(tmp_path, either.url, log) as relay:
        until(lambda: left(either) == 0)
        assert relay.terminate() == 0
    assert len(await records_of(log, tmp_path, len(KEYS) * EACH)) == len(KEYS) * EACH


def test_it_is_woken_by_a_commit_and_answers_probes(either: Database, log: str, tmp_path: Path) -> None:
    """The sweep alone would take nearly a second for each: the next event comes right behind the last one's end."""
    engine = sa.create_engine(either.alchemy())
    with RelayProcess(tmp_path, either.url, log) as relay:
        began = time.monotonic()
        for number in range(20):
            with Session(engine) as session:
                outbox.publish(Placed("k", str(number)), connection=session)
                session.commit()
            until(lambda: left(either) == 0)
        took = time.monotonic() - began
        assert relay.answers("/ready") == '{"status":"ready"}'
        metrics = relay.answers("/metrics")
        assert 'millstream_relayed_total{service="shop"} 20' in metrics
        assert "millstream_outbox_rows" in metrics
    engine.dispose()
    assert took < 20 * SWEEP_SECONDS * 0.75


def test_it_outlives_a_crash_of_the_applications_server(tmp_path: Path) -> None:
    with PostgresqlServer(tmp_path, {"fsync": "off"}) as server, NatsServer(tmp_path / "nats") as nats:
        server.execute("CREATE DATABASE shop")
        url = f"{server.url}/shop"
        with RelayProcess(tmp_path, url, nats.url, "--create-tables"):
            for note in ("1", "2"):
                with psycopg.connect(url) as connection:
                    outbox.publish(Placed("k", note), connection=connection)
                until(lambda: server.execute("SELECT count(*) FROM millstream_outbox", "shop") == [(0,)])
                if note == "1":
                    server.kill()
                    server.start()


def test_what_is_wrong_is_said_before_it_starts(either: Database, tmp_path: Path) -> None:
    """All of it at once, without a password, and with what to do."""
    if either.kind == "postgresql":
        either.server.execute("DROP DATABASE IF EXISTS bare WITH (FORCE)")
        either.server.execute("CREATE DATABASE bare")
        bare = f"{either.server.url}/bare"
        wrong = {
            ("mysql://shop:secret@host/shop", "carrier-pigeon:"): (2, ["--store mysql", "carrier-pigeon"]),
            (either.server.url, "log"): (2, ["name the application's database"]),
            (bare, "log"): (
                2,
                ["has no millstream_outbox", "--create-tables", "--print-tables postgresql", "--schema"],
            ),
            ("postgresql://shop:secret@127.0.0.1:1/shop", "log"): (1, ["127.0.0.1"]),
        }
    else:
        empty = tmp_path / "empty.db"
        empty.touch()
        wrong = {
            ("sqlite:relative.db", "log"): (2, ["sqlite:///path/to/app.db"]),
            (f"sqlite:///{tmp_path}/none.db", "log"): (2, ["none.db: there is no such file"]),
            (f"sqlite:///{empty}", "log"): (2, ["has no millstream_outbox", "--print-tables sqlite"]),
        }
    asked = {
        urls: subprocess.Popen(
            [sys.executable, "-m", "millstream", "relay", "--store", urls[0], "--transport", urls[1], "--port", "0"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for urls in wrong
    }
    for urls, process in asked.items():
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
        code, words = wrong[urls]
        assert process.returncode == code, said
        assert all(word in said for word in words), said
        assert "secret" not in said
        assert "Traceback" not in said
    assert not (tmp_path / "none.db").exists()


async def test_the_printed_tables_are_those_that_it_creates(
    server: PostgresqlServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["relay", "--print-tables", "postgresql"]) == 0
    printed = capsys.readouterr().out
    catalogue = "SELECT table_name, column_name, data_type, is_nullable, identity_generation FROM information_schema.columns WHERE table_schema = 'public' AND table_name LIKE 'millstream%' ORDER BY 1, 2"
    for name in ("printed", "created"):
        server.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        server.execute(f"CREATE DATABASE {name}")
    with psycopg.connect(f"{server.url}/printed") as connection:
        connection.execute(printed.encode())
    for name, create in (("created", True), ("printed", False)):  # what one of them made the other finds complete
        source = source_of(f"{server.url}/{name}", schema=None, clock=SystemClock(), instrumentation=Silent())
        async with source.opened(create=create):
            pass
    assert server.execute(catalogue, "created") == server.execute(catalogue, "printed")
    migrations = "SELECT owner, version, checksum FROM millstream_schema_migrations ORDER BY 1, 2"
    assert server.execute(migrations, "created") == server.execute(migrations, "printed")


@pytest.mark.parametrize("schema", [None, "events"])
def test_its_user_needs_no_more_than_the_guide_says(
    server: PostgresqlServer, tmp_path: Path, schema: str | None
) -> None:
    name = schema or "public"
    for sql in (
        "DROP DATABASE IF EXISTS guarded WITH (FORCE)",
        "DROP ROLE IF EXISTS relay",
        "CREATE ROLE relay LOGIN",
        "CREATE DATABASE guarded",
    ):
        server.execute(sql)
    with psycopg.connect(f"{server.url}/guarded") as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {name}".encode())
        connection.execute(f"SET search_path TO {name}".encode())
        for sql in tables("postgresql"):
            connection.execute(sql.encode())
        connection.execute(
            f"GRANT USAGE ON SCHEMA {name} TO relay; GRANT SELECT, DELETE ON millstream_outbox TO relay;"
            "GRANT SELECT, INSERT ON millstream_held_keys TO relay;"
            "GRANT SELECT, INSERT, UPDATE, DELETE ON millstream_inbox TO relay".encode()
        )
    url = f"{server.url}/guarded".replace("millstream@", "relay@")
    with NatsServer(tmp_path) as nats, RelayProcess(tmp_path, url, nats.url, *(("--schema", name) if schema else ())):
        with psycopg.connect(f"{server.url}/guarded") as connection:
            Outbox("shop", schema=schema).publish(Placed("k"), connection=connection)
        until(lambda: server.execute(f"SELECT count(*) FROM {name}.millstream_outbox", "guarded") == [(0,)])
