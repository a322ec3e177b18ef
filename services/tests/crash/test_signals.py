"""SIGTERM: requests that were received are answered, work under way is finished or given back, nothing is lost; what
hangs is ended by the watchdog, and a second signal ends at once.
"""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest
from customers import baskets_of
from millstream.cli.load.baskets import order_body
from millstream.cli.load.connection import Connection, build_request
from running import Up
from test_kills import left_behind

ROUNDS = 5
CLIENTS = 16
PATIENCE = 30.0


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"it did not come true: {what}"
        time.sleep(0.005)


class Clients:
    """Sixteen connections that order as fast as they get replies, until nobody accepts a connection any more."""

    def __init__(self, up: Up, run: str) -> None:
        self.up = up
        self.run = run
        self.answers: list[int] = []
        self.resets: list[str] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()), name="clients")

    def begin(self) -> None:
        self._thread.start()

    def wait_for(self, answers: int) -> None:
        until(lambda: len(self.answers) > answers, "the clients order")

    def finish(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "a client never got its reply"

    async def _all(self) -> None:
        token = self.up.token("shop")
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._one(number, token))

    async def _one(self, number: int, token: str) -> None:
        connection: Connection | None = None
        for n, basket in enumerate(baskets_of(2_000, seed=number)):
            if connection is None or not connection.usable:
                try:
                    connection = await Connection.open(self.up.address)
                except ConnectionRefusedError:
                    return
            key = {"idempotency-key": f"{self.run}-{number}-{n}"}
            body = order_body(basket, "sim_ok")
            try:
                reply = await connection.request(build_request(self.up.address, "POST", "/orders", token, body, key))
            except ConnectionError as error:
                self.resets.append(f"{self.run}: client {number}, request {n}: {error}")
                return
            self.answers.append(reply.status)


def test_no_request_that_was_received_fails_under_sigterm(up: Up) -> None:
    accepted = 0
    for number in range(ROUNDS):
        up.start()
        clients = Clients(up, f"round-{number}")
        clients.begin()
        clients.wait_for(100)
        code = up.stop()
        clients.finish()
        assert code == 0, up.said()
        assert clients.resets == []
        assert set(clients.answers) == {201}
        accepted += len(clients.answers)
    up.start()  # what was under way goes on where it was left
    orders = f"file:{up.data / 'orders.db'}?mode=ro"

    def settled() -> bool:
        found = dict(_read(orders, "SELECT state, COUNT(*) FROM orders GROUP BY state"))
        return found == {"CONFIRMED": accepted}

    until(settled, f"{accepted} orders are confirmed, each once")
    assert up.stop() == 0
    assert left_behind(up.data) == []


def _read(uri: str, sql: str) -> list[Any]:
    flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
    return apsw.Connection(uri, flags=flags).execute(sql).fetchall()


# -- what hangs -------------------------------------------------------------------------------------------------------


@pytest.fixture
def awkward(tmp_path: Path) -> Up:
    return Up(tmp_path, "awkward:all", HTTP__GRACE="5s", HTTP__DRAIN_DELAY="100ms")


async def _post(up: Up, path: str) -> int:
    connection = await Connection.open(up.address)
    try:
        return (await connection.request(build_request(up.address, "POST", path, up.token("shop"), b"{}"))).status
    finally:
        connection.abort()
        await asyncio.sleep(0)


def _hang(up: Up) -> None:
    assert asyncio.run(_post(up, "/ask")) == 200
    until((up.data / "hanging").exists, "the call is under way")


def test_a_hanging_call_is_cancelled_and_its_start_given_back(awkward: Up) -> None:
    awkward.start()
    try:
        _hang(awkward)
        began = time.monotonic()
        assert awkward.stop() == 0, awkward.said()
        assert time.monotonic() - began < 5.0
        store = apsw.Connection(str(awkward.data / "awkward.db"))
        assert store.execute("SELECT starts, attempts FROM millstream_parked").fetchall() == [(0, 0)]
        assert store.execute("SELECT state FROM millstream_lanes").fetchall() == [(0,)]
        store.close()
        (awkward.data / "healed").touch()
        awkward.start()
        until((awkward.data / "answered").exists, "the call is made again")
        assert awkward.stop() == 0
    finally:
        awkward.clean_up()


def test_a_second_signal_ends_the_process_at_once(awkward: Up) -> None:
    awkward.start()
    try:
        _hang(awkward)
        awkward.signal(signal.SIGTERM)
        until(lambda: "draining" in awkward.said(), "it drains")
        awkward.signal(signal.SIGINT)
        began = time.monotonic()
        assert awkward.wait() == 130
        assert time.monotonic() - began < 1.0
    finally:
        awkward.clean_up()


def test_the_watchdog_ends_a_process_whose_loop_is_blocked(awkward: Up) -> None:
    awkward.start()
    blocked = threading.Thread(target=lambda: asyncio.run(_lost(awkward)), name="blocked")
    try:
        blocked.start()
        until((awkward.data / "blocked").exists, "the loop is blocked")
        began = time.monotonic()
        awkward.signal(signal.SIGTERM)
        assert awkward.wait(10.0) == 1
        assert time.monotonic() - began < 5.0
        assert "did not finish in time" in awkward.said()
    finally:
        awkward.clean_up()
        blocked.join()


async def _lost(up: Up) -> None:
    with pytest.raises(ConnectionError):
        await _post(up, "/block")
