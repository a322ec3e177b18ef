"""The PostgreSQL server of the tests: it starts fast, and dies, pauses and comes back with its data."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
import pytest
from millstream.testing.engines.postgresql import PostgresqlServer


def test_a_killed_server_comes_back_on_its_port_with_its_data(tmp_path: Path) -> None:
    with PostgresqlServer(tmp_path, {"work_mem": "5MB"}) as server:
        url = server.url
        server.execute("CREATE DATABASE shop")
        with psycopg.connect(f"{url}/shop", autocommit=True) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS n")
            server.kill()
            with pytest.raises(psycopg.OperationalError):
                connection.execute("SELECT 1")
        server.start()
        assert server.url == url
        assert server.execute("SELECT n FROM t", "shop") == [(1,)]
        assert server.execute("SHOW work_mem") == [("5MB",)]
    with pytest.raises(psycopg.OperationalError):
        server.execute("SELECT 1")


def test_a_paused_server_answers_again_once_it_is_resumed(tmp_path: Path) -> None:
    with PostgresqlServer(tmp_path) as server:
        with psycopg.connect(f"{server.url}/postgres", autocommit=True) as connection:
            server.pause()
            with pytest.raises(psycopg.OperationalError):
                psycopg.connect(f"{server.url}/postgres", connect_timeout=2)
            server.resume()
            assert connection.execute("SELECT 1").fetchone() == (1,)
            began = time.monotonic()
        server.stop()
        assert time.monotonic() - began < 10
