"""The whole system as a process, killed with SIGKILL while orders flow and started again: nothing lost, nothing doubled.

Everything here is real: `millstream up`, its port, the files, the courier's webhooks over HTTP. What is checked in the
end is the provider's own book against what clients were told.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from .conftest import new_order

METHODS = ("sim_ok", "sim_ok", "sim_late", "sim_twice", "sim_timeout", "sim_declined", "sim_error_then_ok")
ORDERS = 42
KILLS = 4
PATIENCE = 60.0


class System:
    """One `up` at a time on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        # Calls that were under way in three processes in a row are dead letters (rule C5); the janitor asks about them.
        environment = {**os.environ, "MILLSTREAM_SERVICES__PAYMENTS__START_ASK": "4s"}
        with (self.folder / "output").open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "millstream", "up", "--port", "0", "--data", str(self.folder / "var"),
                stdout=output, stderr=output, env=environment, cwd=self.folder,
            )  # fmt: skip
        admin = self.folder / "var" / "admin.json"
        async with asyncio.timeout(PATIENCE):
            while True:
                assert self.process.returncode is None, (self.folder / "output").read_text()[-3_000:]
                try:
                    found = msgspec.json.decode(admin.read_bytes())
                    if found["pid"] == self.process.pid:
                        self.url = found["url"]
                        return
                except (FileNotFoundError, msgspec.DecodeError):
                    pass
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def terminate(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return await self.process.wait()

    async def token(self, subject: str, *roles: str) -> str:
        arguments = [part for role in roles for part in ("--role", role)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "millstream", "token", "--subject", subject, *arguments,
            "--data", str(self.folder / "var"), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        return output.decode().strip()


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[System]:
    system = System(folder)
    await system.start()
    try:
        yield system
    finally:
        if system.process is not None and system.process.returncode is None:
            await system.kill()


async def post(session: aiohttp.ClientSession, system: System, n: int, token: str) -> str:
    """Place order `n`, as a client that does not give up: the same key until there is an answer."""
    headers = {"authorization": f"Bearer {token}", "idempotency-key": f"order-{n}"}
    body = new_order(METHODS[n % len(METHODS)], 100 + n)
    while True:
        try:
            async with session.post(f"{system.url}/orders", json=body, headers=headers) as reply:
                if reply.status == 201:
                    return (await reply.json())["id"]
                assert reply.status in (409, 503), await reply.text()
        except (aiohttp.ClientError, TimeoutError):
            pass
        await asyncio.sleep(0.05)


async def get(session: aiohttp.ClientSession, system: System, path: str, token: str) -> Any:
    async with session.get(f"{system.url}{path}", headers={"authorization": f"Bearer {token}"}) as reply:
        assert reply.status == 200, await reply.text()
        return await reply.json()


async def test_a_system_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    dice = random.Random(11)
    async with running(tmp_path) as system, aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session:
        client, operator = await asyncio.gather(system.token("ann"), system.token("op", "operator"))
        waiting = [asyncio.create_task(post(session, system, n, client)) for n in range(ORDERS // 2)]
        for kill in range(KILLS):
            await asyncio.sleep(dice.random() * 0.6)
            await system.kill()
            await system.start()
            if kill == 0:
                waiting += [asyncio.create_task(post(session, system, n, client)) for n in range(ORDERS // 2, ORDERS)]
        async with asyncio.timeout(PATIENCE):
            placed = await asyncio.gather(*waiting)
            states: dict[str, str] = {}
            told: dict[str, list[str]] = {}
            while len(told) < ORDERS:
                await asyncio.sleep(0.2)
                for order in await get(session, system, "/orders?limit=500", client):
                    states[order["id"]] = order["state"]
                for order_id in placed:
                    if states.get(order_id) in ("CONFIRMED", "FAILED") and order_id not in told:
                        found = await get(session, system, f"/notifications?order={order_id}", client)
                        if found:
                            told[order_id] = [entry["kind"] for entry in found]
        book = (await get(session, system, "/provider/book?limit=1000", operator))["entries"]
        balance = await get(session, system, "/ledger/trial-balance", operator)
        cases = await get(session, system, "/payments/cases", operator)
        orders = {o["id"]: o for o in await get(session, system, "/orders?limit=500", client)}
        full = {order_id: await get(session, system, f"/orders/{order_id}", client) for order_id in placed}
        code = await system.terminate()

    assert len(set(placed)) == ORDERS
    assert set(orders) == set(placed)
    declined = {placed[n] for n in range(ORDERS) if METHODS[n % len(METHODS)] == "sim_declined"}
    assert {order_id for order_id, state in states.items() if state == "FAILED"} == declined
    for order_id in placed:
        assert told[order_id] == ["order.failed" if order_id in declined else "order.confirmed"]
    entries = {entry["key"]: entry for entry in book}
    assert len(entries) == len(book) == ORDERS
    for order_id in placed:
        entry = entries[full[order_id]["payment"]["id"]]
        assert (entry["charges"], entry["amount"]) == (0 if order_id in declined else 1, orders[order_id]["total"])
    total = sum(orders[order_id]["total"] for order_id in placed if order_id not in declined)
    assert balance == {"USD": {"debit": total, "credit": total}}
    assert cases == []
    assert code == 0
