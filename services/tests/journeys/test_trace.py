"""An order is followed by its trace id: from HTTP through every event, to its mail. A real collector looks on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import msgspec
from millstream.testing.collector import collecting

from .conftest import new_order

TRACE = "ab" * 16
PATIENCE = 60.0
# Each of these parts leaves at least one span in the order's own trace.
EXPECTED = {
    ("gateway", "POST /orders"),
    ("orders", "millstream.orders.v1.OrdersService.PlaceOrder"),
    ("payments", "follow-order"),
    ("payments", "charge"),
    ("payments", "settle"),
    ("orders", "follow-payment"),
    ("notifications", "tell-about-order"),
}


async def test_an_order_is_followed_from_http_through_every_event(tmp_path: Path) -> None:
    with collecting() as collector:
        environment = {
            **os.environ,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.address,
            "OTEL_TRACES_SAMPLER": "parentbased_always_off",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        with (tmp_path / "output").open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "millstream", "up", "--port", "0", "--data", "var",
                stdout=output, stderr=output, env=environment, cwd=tmp_path,
            )  # fmt: skip
        try:
            async with asyncio.timeout(PATIENCE):
                await _order(tmp_path, process)
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0, (tmp_path / "output").read_text()[-2_000:]
        seen = set[tuple[str, str]]()
        for _, span in collector.spans():
            assert span.trace_id.hex() == TRACE, "nothing but the sampled trace is exported"
            attributes = {a.key: a.value.string_value for a in span.attributes}
            seen.add((attributes.get("millstream.service", ""), span.name))
        missing = EXPECTED - seen
        assert not missing, f"missing {sorted(missing)} among {sorted(seen)}"


async def _order(folder: Path, process: asyncio.subprocess.Process) -> None:
    """Post one traced order and wait until its mail is recorded."""
    admin = folder / "var" / "admin.json"
    while not admin.exists():
        assert process.returncode is None, (folder / "output").read_text()[-2_000:]
        await asyncio.sleep(0.02)
    url = msgspec.json.decode(admin.read_bytes())["url"]
    made = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "millstream", "token", "--subject", "me", "--data", "var",
        stdout=asyncio.subprocess.PIPE, cwd=folder,
    )  # fmt: skip
    token = (await made.communicate())[0].decode().strip()
    headers = {"authorization": f"Bearer {token}", "idempotency-key": "k1", "traceparent": f"00-{TRACE}-{'cd' * 8}-01"}
    async with aiohttp.ClientSession(url, headers={"authorization": headers["authorization"]}) as session:
        async with session.post("/orders", json=new_order("sim_ok", 350), headers=headers) as reply:
            assert reply.status == 201, await reply.text()
            order = (await reply.json())["id"]
        while True:
            async with session.get(f"/notifications?order={order}") as reply:
                if [n["kind"] for n in await reply.json()] == ["order.confirmed"]:
                    return
            await asyncio.sleep(0.02)
