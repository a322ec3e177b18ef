"""What the engines say: whether they open, what a confirmed write survives, what is not provisioned or migrated yet."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...clock import SystemClock
from ...errors import Misconfigured
from ...ports.instrumentation import Silent
from ...ports.transport import Durability
from ...runtime.adapters import AdapterContext, open_store, open_transport
from ...runtime.migrations import KERNEL, migrations_in, pending
from ...runtime.settings import Settings
from ...service.service import Service
from ...service.topics import topics_of
from .findings import Findings

__all__ = ["check_engines"]


async def check_engines(services: Sequence[Service], settings: Settings, findings: Findings) -> None:
    """Open each engine alone, so that one that is away hides no other. Changes nothing that a start would not."""
    if settings.data.is_dir():
        await _check(services, settings, settings.data, True, findings)
        return
    findings.ok("data", f"{settings.data}/ does not exist yet: the first start makes it")
    with tempfile.TemporaryDirectory(prefix="millstream-check-") as folder:
        await _check(services, settings, Path(folder), False, findings)


async def _check(services: Sequence[Service], settings: Settings, data: Path, used: bool, findings: Findings) -> None:
    await _check_transport(services, settings, data, used, findings)
    for service in services:
        await _check_store(service, settings, data, used, findings)


async def _check_transport(
    services: Sequence[Service], settings: Settings, data: Path, used: bool, findings: Findings
) -> None:
    try:
        transport = open_transport(settings.transport.url, AdapterContext(data, SystemClock(), Silent()))
        async with transport:
            _durable("transport", transport.capabilities.name, await transport.durability(), findings)
            for use in topics_of(services):
                count = await transport.partitions(use.topic)
                if count is None and used:
                    findings.warn("topics", f"{use.topic!r} is not provisioned: the next start or `provision` does it")
                elif count is not None and count != settings.transport.partitions:
                    findings.ok(
                        "topics",
                        f"{use.topic!r} has {count} partitions, new topics get {settings.transport.partitions}",
                    )
    except Misconfigured as error:
        findings.problem("transport", *error.problems)
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises, its engine is what is wrong
        findings.problem("transport", f"{_shown(settings, 'transport')}: {type(error).__name__}: {error}")


async def _check_store(service: Service, settings: Settings, data: Path, used: bool, findings: Findings) -> None:
    area = f"store of {service.name}"
    try:
        store = open_store(settings.store.url, service.name, data, SystemClock(), Silent())
        async with store:
            _durable(area, store.capabilities.name, await store.durability(), findings)
            migrations = migrations_in("millstream", KERNEL)
            if service.migrations is not None:
                migrations += migrations_in(service.name, service.migrations)
            waiting = await pending(store, migrations)
            if waiting and used and len(waiting) < len(migrations):
                names = ", ".join(f"{m.owner}/{m.version:04}_{m.name}" for m in waiting)
                findings.warn(area, f"migrations are pending, the next start applies them: {names}")
    except Misconfigured as error:
        findings.problem(area, *error.problems)
    except Exception as error:  # noqa: BLE001 - whatever an adapter raises, its engine is what is wrong
        findings.problem(area, f"{_shown(settings, 'store')}: {type(error).__name__}: {error}")


def _durable(area: str, name: str, durability: Durability, findings: Findings) -> None:
    if durability.process_crash and durability.power_loss:
        findings.ok(area, f"{name}: a confirmed write survives a crash of the process and a power cut")
    else:
        what = "a crash of the process" if not durability.process_crash else "a power cut"
        findings.problem(area, f"{name}: a confirmed write may not survive {what}: {durability.why_not}")


def _shown(settings: Settings, part: str) -> str:
    return str(settings.redacted()[part]["url"])
