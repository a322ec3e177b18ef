"""The kernel's rules hold on the PostgreSQL store too: the very tests of `framework/tests/unit`, on another engine."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from millstream.postgresql.database import database_of
from millstream.stores.postgresql import PostgresqlStore
from millstream.testing.clock import ManualClock
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.transports.memory import MemoryTransport

UNIT = Path(__file__).parents[1] / "unit"
OF_SQLITE = "store.file"
"""In the source of a test that reaches into SQLite's file. What those are about is tested in `test_postgresql_store.py`."""


def _loaded(path: Path) -> ModuleType:
    name = f"rules_on_postgresql_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_kernel = _loaded(UNIT / "conftest.py")
for _path in sorted(UNIT.glob("test_rules_*.py")):
    _module = _loaded(_path)
    for _name, _value in vars(_module).items():
        if _name.startswith("test_") and callable(_value) and OF_SQLITE not in inspect.getsource(_value):
            assert _name not in globals(), f"two rule tests are called {_name}"
            globals()[_name] = _value


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresqlServer]:
    # Nothing here is about power cuts: without waiting for the disk the tests take a third of the time.
    with PostgresqlServer(tmp_path_factory.mktemp("postgresql"), {"synchronous_commit": "off"}) as server:
        yield server


@pytest.fixture
async def kernel(server: PostgresqlServer) -> AsyncIterator[Any]:
    clock = ManualClock()
    store = PostgresqlStore(database_of(server.url, "shop"), clock=clock)
    clock.busy = lambda: store.busy
    schema = resources.files("millstream.delivery") / "sql"
    async with store, MemoryTransport() as log:
        tables = [row[0] for row in await store.query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        if tables:
            await store.script(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY")
        else:
            for name in ("0001_kernel.sql", "0002_idempotency.sql"):
                await store.script((schema / name).read_text())
            await store.script("CREATE TABLE applied (n INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, value INTEGER)")
        yield _kernel.Kernel(store, log, clock)
