"""The crash story of the embedded engines, on real ones: workers are killed at named points and at random, then the engines
themselves are killed under a living worker. Nothing is lost, doubled or reordered, and everything comes to rest.

`MILLSTREAM_ENGINE_KILLS=50` makes processes die so often on each pair instead of a handful of times, and engines a sixth as often;
`MILLSTREAM_PROOF=1` takes every pair of a store and a log.
"""

from __future__ import annotations

import os
import random
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from millstream.testing.crash.campaign import Tally, play
from millstream.testing.crash.counts import count
from millstream.testing.crash.forked import End, Forked
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.redis import RedisServer
from millstream.testing.engines.server import EngineServer

sys.path.insert(0, str(Path(__file__).parents[1] / "crash"))

from invariants import violations  # pyright: ignore[reportMissingImports] - the crash suite's, on the path since above
from life import Engines, Life, live  # pyright: ignore[reportMissingImports] - the crash suite's, on the path since above
from stories import Death, story  # pyright: ignore[reportMissingImports] - the crash suite's, on the path since above

KILLS = int(os.environ.get("MILLSTREAM_ENGINE_KILLS", "6"))
"""Of workers, on each pair."""
SEED = int(os.environ.get("MILLSTREAM_CRASH_SEED", "1"))
ENGINE_KILLS = max(1, KILLS // 6)
"""Of each engine, under one worker."""
LIFE_SECONDS = 120.0 + 60.0 * ENGINE_KILLS
"""On a busy machine RabbitMQ takes 20 seconds to come back, and everything waits for it."""

SERVERS: dict[str, Callable[[Path], EngineServer]] = {
    "postgresql": PostgresqlServer,
    "nats": NatsServer,
    "kafka": KafkaServer,
    "rabbitmq": RabbitmqServer,
    "redis": RedisServer,
}
PAIRS = [
    ("postgresql", "nats"),
    ("postgresql", "kafka"),
    ("postgresql", "rabbitmq"),
    ("postgresql", "redis"),
    ("postgresql", "postgresql"),
    ("sqlite", "nats"),
]
if os.environ.get("MILLSTREAM_PROOF"):
    PAIRS = [(store, transport) for store in ("postgresql", "sqlite") for transport in SERVERS]
POINTS = (
    "bank: before COMMIT of insert numbers",
    "log: after publish",
    "bank: after COMMIT of delete outbox",
    "till: insert inbox",
    "till: before COMMIT of update claims (position, expires, suspect)",
    "till: after COMMIT of update claims (position, expires, suspect)",
    "till: update parked (starts)",
    "call: after",
)


class Pair:
    """Running engines, and what a worker needs to find them."""

    def __init__(self, store: str, transport: str, servers: dict[str, EngineServer]) -> None:
        self.servers = servers
        self.engines = Engines(
            store=servers[store].url if store in servers else store, transport=servers[transport].url
        )


@pytest.fixture(params=PAIRS, ids=lambda pair: "+".join(pair))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    store, transport = request.param
    with ExitStack() as stack:
        names = [name for name in dict.fromkeys((store, transport)) if name in SERVERS]
        servers = {name: stack.enter_context(SERVERS[name](tmp_path / name)) for name in names}
        yield Pair(store, transport, servers)


def test_killed_workers_and_killed_engines_lose_double_and_reorder_nothing(pair: Pair, tmp_path: Path) -> None:
    dice, tally = random.Random(SEED), Tally()
    deaths = [
        Death(dice.choice(POINTS), dice.randint(1, 3)) if n % 3 else Death(after=dice.random() * 0.4)
        for n in range(KILLS)
    ]
    folder = tmp_path / "data"
    play([story(folder, deaths, tally, engines=pair.engines)], lanes=1)
    assert tally.total >= KILLS // 2, tally.table()
    end = _while_engines_die(folder, pair, rows=KILLS * 24 + 160, dice=dice)
    assert end.how == "done", end.text
    wrong = violations(folder, engines=pair.engines)
    assert not wrong, "\n".join(wrong[:20])
    count(worker_kills=tally.total, engine_kills=len(pair.servers) * ENGINE_KILLS)


def _while_engines_die(folder: Path, pair: Pair, *, rows: int, dice: random.Random) -> End:
    """One life, during which each engine is killed with SIGKILL and started again, one after the other."""
    worker = Forked(live(folder, Life(rows, engines=pair.engines)), seconds=LIFE_SECONDS)
    victims = list(pair.servers.values()) * ENGINE_KILLS
    killed, next_kill = 0, 0.0
    while True:
        select.select([worker], [], [], min(0.02, worker.timeout()))
        end = worker.step()
        if end is not None:
            assert killed or end.how != "done", "it ended before an engine died"
            return end
        if worker.ready and not next_kill:
            next_kill = time.monotonic() + dice.random() * 0.3
        if next_kill and killed < len(victims) and time.monotonic() >= next_kill:
            victims[killed].kill()
            victims[killed].start()
            killed += 1
            next_kill = time.monotonic() + 0.3 + dice.random() * 0.5
