"""Framework code takes clock, randomness, ids, threads and drivers through ports, so that the simulator runs the real code.

This test reads the source of the framework and names every line that reaches past a port. Adapters, tools and the
process edge are where ports meet the machine: they are listed in `OUTSIDE`, and single exceptions in `ALLOWED`, each
with its reason. What it cannot see: names built at run time (`getattr`, `importlib`).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "millstream"

OUTSIDE = {
    "sqlite/": "what the SQLite store and the embedded log share: the driver and the commit thread",
    "postgresql/": "what the PostgreSQL store and log share: the driver",
    "adoption/": "writes into the transactions of its callers' drivers, and is the relay's process",
    "stores/": "adapters: they hold the drivers and the commit thread",
    "transports/": "adapters: they hold the drivers",
    "exporters/": "adapters: they hold the clients of other systems",
    "cli/": "the program a person starts; it owns the process",
    "testing/": "the simulator and the harness implement the ports, with their own seeds and clocks",
    "telemetry/": "an implementation of ports.instrumentation: it measures with the real clock",
    "grpc/": "an edge on the driver grpcio, which keeps threads and timers of its own",
    "runtime/child.py": "a child process of the supervisor",
    "runtime/own_nats.py": "a server that the supervisor starts",
    "runtime/siblings.py": "the HTTP client of one process to its siblings",
    "runtime/process.py": "the process edge: signals, child processes, the event loop",
}

ALLOWED = {
    ("clock.py", "SystemClock"): "the system implementation of the clock port",
    ("ids.py", "SystemEntropy"): "the system implementation of the entropy port",
    ("ids.py", "_system_ms"): "the clock that ids take when nobody gives them one",
}

_DRIVER = "a driver: only an adapter may import it"
_THREAD = "a thread: framework code starts none, only adapters do"
_CLOCK = "reads the clock: take a Clock"
_RANDOM = "randomness: take an Entropy"
_PROCESS = "the process edge: only runtime/process.py and the CLI touch it"

BANNED_MODULES = {
    **dict.fromkeys(
        (
            "aio_pika", "aiohttp", "aiokafka", "aiosmtplib", "aiosqlite", "apsw", "asyncpg", "confluent_kafka", "grpc",
            "httpx", "nats", "pika", "psycopg", "psycopg2", "redis", "requests", "rstream", "sqlalchemy", "sqlite3",
            "urllib3",
        ),
        _DRIVER,
    ),
    **dict.fromkeys(("threading", "_thread", "concurrent.futures"), _THREAD),
    **dict.fromkeys(("multiprocessing", "subprocess", "signal"), _PROCESS),
    "secrets": _RANDOM,
}  # fmt: skip

BANNED_NAMES = {
    **dict.fromkeys(
        (
            "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.perf_counter",
            "time.perf_counter_ns", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.datetime.today",
            "datetime.date.today",
        ),
        _CLOCK,
    ),
    "time.sleep": "blocks the event loop: take a Clock",
    "asyncio.sleep": "waits on the machine's clock: take a Clock (only `asyncio.sleep(0)`, a bare yield, is fine)",
    "asyncio.to_thread": _THREAD,
    **dict.fromkeys(("uuid.uuid1", "uuid.uuid4", "uuid.uuid6", "uuid.uuid7"), "a random id: take Ids, or derive it"),
    **dict.fromkeys(("os.urandom", "os.getrandom"), _RANDOM),
}  # fmt: skip

# A generator with a seed repeats itself, and sleeping for 0 only yields. Every other use of them is an offence, as is
# every function of `random`: those draw from hidden state.
SOMETIMES_FINE = ("random.Random", "asyncio.sleep")


@dataclass(frozen=True)
class Offence:
    """One line that reaches past a port. `scope` is the top-level class or function it stands in, or "" for none."""

    line: int
    scope: str
    name: str
    reason: str


def offences_in(source: str) -> list[Offence]:
    """Every line of a module that reaches past a port, in order."""
    visitor = _Visitor()
    visitor.visit(ast.parse(source))
    return sorted(visitor.found, key=lambda offence: offence.line)


class _Visitor(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Offence] = []
        self._scope = ""
        self._imported: dict[str, str] = {}  # local name -> full dotted name

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._imported[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )
            self._judge_module(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if node.level or node.module is None:
            return
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            self._imported[alias.asname or alias.name] = full
            if not self._judge_module(node, node.module):
                self._judge_module(node, full)
                if full not in SOMETIMES_FINE:
                    self._judge_name(node, full)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_scope(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_scope(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_scope(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return  # for annotations, see below
        self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> None:
        """Annotations name types and draw nothing."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        full = self._full_name(node.func)
        seeded = full == "random.Random" and bool(node.args or node.keywords)
        bare_yield = full == "asyncio.sleep" and [ast.unparse(argument) for argument in node.args] == ["0"]
        if seeded or bare_yield:
            for argument in (*node.args, *node.keywords):
                self.visit(argument)
            return
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        full = self._full_name(node)
        if full is not None:
            self._judge_name(node, full)
        if node.attr == "run_in_executor":
            self._add(node, "run_in_executor", _THREAD)
        if node.attr == "time" and _is_event_loop(node.value):
            self._add(node, "loop.time", _CLOCK)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        # Importing these is no offence: some of their uses are fine, and visit_Call has taken those out.
        full = self._imported.get(node.id)
        if full in SOMETIMES_FINE:
            self._judge_name(node, full)

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        outermost = not self._scope
        if outermost:
            self._scope = node.name
        for field, children in ast.iter_fields(node):
            if field != "returns":
                for child in children if isinstance(children, list) else [children]:
                    if isinstance(child, ast.AST):
                        self.visit(child)
        if outermost:
            self._scope = ""

    def _full_name(self, node: ast.expr) -> str | None:
        if isinstance(node, ast.Name):
            return self._imported.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._full_name(node.value)
            return None if owner is None else f"{owner}.{node.attr}"
        return None

    def _judge_module(self, node: ast.stmt, module: str) -> bool:
        for banned, reason in BANNED_MODULES.items():
            if module == banned or module.startswith(f"{banned}."):
                self._add(node, module, reason)
                return True
        return False

    def _judge_name(self, node: ast.AST, full: str) -> None:
        if full in BANNED_NAMES:
            self._add(node, full, BANNED_NAMES[full])
        elif full.startswith("random.") and full.count(".") == 1:
            self._add(node, full, _RANDOM)

    def _add(self, node: ast.AST, name: str, reason: str) -> None:
        self.found.append(Offence(getattr(node, "lineno", 0), self._scope, name, reason))


def _is_event_loop(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).endswith(("get_running_loop", "get_event_loop"))
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node).endswith("loop")


def _framework_files() -> list[str]:
    names = (path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
    return sorted(name for name in names if not any(name == out or name.startswith(out) for out in OUTSIDE))


@pytest.mark.parametrize("name", _framework_files())
def test_framework_code_reaches_the_machine_through_ports_only(name: str) -> None:
    found = offences_in((SOURCE / name).read_text(encoding="utf-8"))
    left = [offence for offence in found if (name, offence.scope) not in ALLOWED]

    assert not left, "\n".join(f"{SOURCE / name}:{o.line}: {o.name} is {o.reason}" for o in left)


@pytest.mark.parametrize(("name", "scope"), ALLOWED)
def test_every_exception_is_still_needed(name: str, scope: str) -> None:
    found = offences_in((SOURCE / name).read_text(encoding="utf-8"))

    assert scope in {offence.scope for offence in found}, f"take ({name!r}, {scope!r}) off ALLOWED"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import apsw", "apsw"),
        ("import nats.js as js", "nats.js"),
        ("from redis import asyncio as aioredis", "redis"),
        ("import aiohttp.web", "aiohttp.web"),
        ("def f():\n    from psycopg import sql", "psycopg"),
        ("import threading", "threading"),
        ("from concurrent import futures", "concurrent.futures"),
        ("from concurrent.futures import ThreadPoolExecutor", "concurrent.futures"),
        ("import secrets", "secrets"),
        ("import signal", "signal"),
        ("import time\ntime.time()", "time.time"),
        ("import time as t\nclock = t.monotonic", "time.monotonic"),
        ("from time import perf_counter as now", "time.perf_counter"),
        ("import datetime\ndatetime.datetime.utcnow()", "datetime.datetime.utcnow"),
        ("from datetime import datetime, UTC\ndatetime.now(UTC)", "datetime.datetime.now"),
        ("import datetime as dt\ndt.date.today()", "datetime.date.today"),
        ("import uuid\nuuid.uuid4()", "uuid.uuid4"),
        ("from uuid import uuid1", "uuid.uuid1"),
        ("import random\nrandom.random()", "random.random"),
        ("from random import choice", "random.choice"),
        ("import random\nrandom.Random()", "random.Random"),
        ("from random import Random\nRandom()", "random.Random"),
        ("import random\nrandom.SystemRandom(1)", "random.SystemRandom"),
        ("import os\nos.urandom(8)", "os.urandom"),
        ("import asyncio\nasync def f(): await asyncio.sleep(1)", "asyncio.sleep"),
        ("from asyncio import sleep as wait\nasync def f(): await wait(1)", "asyncio.sleep"),
        ("import asyncio\nasyncio.to_thread(print)", "asyncio.to_thread"),
        ("loop.run_in_executor(None, print)", "run_in_executor"),
        ("import asyncio\nasyncio.get_running_loop().time()", "loop.time"),
        ("class A:\n    def f(self): return self._loop.time()", "loop.time"),
    ],
)
def test_a_planted_offence_is_found(source: str, name: str) -> None:
    assert name in {offence.name for offence in offences_in(source)}


@pytest.mark.parametrize(
    "source",
    [
        "from datetime import datetime, timedelta\ndatetime.fromtimestamp(0)",
        "import random\nrandom.Random(7).random()",
        "from random import Random\nRandom(x=1)",
        "import random\ndef f(source: random.Random) -> random.Random:\n    kept: random.Random = source\n    return kept",
        "import asyncio\nasync def f(): await asyncio.sleep(0)",
        "import uuid\nuuid.UUID(int=1)",
        "from .clock import time\ntime()",
        "async def f(clock): await clock.sleep(1); return clock.monotonic()",
        "message.time()",
    ],
)
def test_what_repeats_itself_is_left_alone(source: str) -> None:
    assert offences_in(source) == []


def test_an_exception_covers_its_own_scope_only() -> None:
    source = "import time\nclass SystemClock:\n    def now(self): return time.time()\ndef other(): return time.time()"

    assert [offence.scope for offence in offences_in(source)] == ["SystemClock", "other"]
