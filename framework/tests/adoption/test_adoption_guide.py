"""What the guide and the README show of adoption runs, on real engines."""

from __future__ import annotations

import asyncio
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import asyncpg
import psycopg
import pytest
from millstream.message import encode_message
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from .application import Database, until

ROOT = Path(__file__).parents[3]
EXCERPT = re.compile(r"^```python\n# from (examples/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def shown(file: str) -> ModuleType:
    """The program that a snippet is from."""
    name = f"shown_{file}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "adoption" / f"{file}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def shop(database: Database) -> Iterator[Database]:
    database.rows("ALTER TABLE orders ADD COLUMN confirmed boolean NOT NULL DEFAULT false")
    yield database
    database.rows("ALTER TABLE orders DROP COLUMN confirmed")


async def test_asyncpg_as_shown(shop: Database) -> None:
    place = shown("with_asyncpg").place
    async with asyncpg.create_pool(shop.url, min_size=1, max_size=1) as pool:
        await place(pool, "o1")
        with pytest.raises(asyncpg.UniqueViolationError):
            await place(pool, "o1")
    assert (shop.orders(), shop.published()) == (["o1"], ["o1"])


async def test_psycopg_as_shown(shop: Database) -> None:
    place = shown("with_psycopg").place
    async with await psycopg.AsyncConnection.connect(shop.url) as connection:
        await place(connection, "o1")
        with pytest.raises(psycopg.errors.UniqueViolation):
            await place(connection, "o1")
    assert (shop.orders(), shop.published()) == (["o1"], ["o1"])


async def test_sqlalchemy_as_shown(shop: Database) -> None:
    program = shown("with_sqlalchemy")
    engine = create_async_engine(shop.alchemy("asyncpg"))
    async with AsyncSession(engine) as session:
        await program.place(session, "o1")
    async with AsyncSession(engine) as session:
        with pytest.raises(IntegrityError):
            await program.place(session, "o1")
    assert (shop.orders(), shop.published()) == (["o1"], ["o1"])
    value = encode_message(shop.messages()[0])
    for _ in range(2):
        async with AsyncSession(engine) as session:
            await program.confirm(session, value)
            shop.rows("UPDATE orders SET confirmed = NOT confirmed")  # a second time would be seen
    assert shop.rows("SELECT confirmed FROM orders") == [(True,)]
    await engine.dispose()


async def test_handlers_as_shown(shop: Database, tmp_path: Path) -> None:
    engine = create_async_engine(shop.alchemy("asyncpg"))
    place = shown("with_sqlalchemy").place
    async with shown("with_handlers").handling(engine, f"log://{tmp_path}/log.db") as running:
        async with AsyncSession(engine) as session:
            await place(session, "o1")
        await asyncio.to_thread(until, lambda: shop.rows("SELECT confirmed FROM orders") == [(True,)])
        assert running.ready
    await engine.dispose()


def test_the_readmes_snippets_are_those_that_run_here() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for file, excerpt in EXCERPT.findall(text):
        assert excerpt in (ROOT / file).read_text(encoding="utf-8"), f"{file} does not have\n{excerpt}"
