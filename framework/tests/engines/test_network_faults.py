"""The bank of the crash suite behind a bad network: while it works, its connections to the log and to the store are delayed,
sliced, torn, reset, refused, and kept silent, one fault after the other. Then the network heals, everything comes to rest, and
nothing is lost, doubled or out of order.

`MILLSTREAM_FAULT_EPISODES=1000` plays so many on each engine instead of twenty; `MILLSTREAM_FAULT_SEED` others.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
from millstream.testing.crash.counts import count
from millstream.testing.crash.forked import End, Forked
from millstream.testing.engines.kafka import KafkaServer
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer
from millstream.testing.engines.rabbitmq import RabbitmqServer
from millstream.testing.engines.redis import RedisServer
from millstream.testing.engines.server import EngineServer, free_port
from millstream.testing.faults import Episode, FaultProxy, episodes
from millstream.testing.removals.consumption import NoInbox
from millstream.testing.removals.removal import INTACT, Removal

sys.path.insert(0, str(Path(__file__).parents[1] / "crash"))

from invariants import violations  # pyright: ignore[reportMissingImports] - the crash suite's, on the path since above
from life import Engines, Life, live  # pyright: ignore[reportMissingImports] - as above

EPISODES = int(os.environ.get("MILLSTREAM_FAULT_EPISODES", "20"))
"""On each engine."""
SEED = int(os.environ.get("MILLSTREAM_FAULT_SEED", "1"))
REST_SECONDS = 0.2
"""Of a healthy network between two faults: longer than the first pause of whoever tries again."""
STORE_EVERY = 5
"""Behind so many faults of the log comes one of the store."""
START_SECONDS = 60.0
SETTLE_SECONDS = 150.0
"""Everything that was held up is done by then, on a busy machine too."""
PATIENCE = 4
"""Lives in which the absence of a safeguard must show. One is nearly always enough."""
PAUSE = 0.08
"""Behind each transfer of one of the three producers, so that work goes on during all faults and is done soon after."""
LEASE = 4.0
LIMIT = "2s"
"""Of one answer: what a fault may take until it is noticed."""
# Longer than any limit above: a partition that everybody has noticed when it ends.
LONG = (Episode("silent", 3.0), Episode("mute", 2.5))

OPTIONS = {
    "nats": f"sync=always&timeout={LIMIT}",
    "kafka": f"timeout={LIMIT}",
    "rabbitmq": f"timeout={LIMIT}&heartbeat=2s",
    "redis": f"timeout={LIMIT}",
    "postgresql": f"limit={LIMIT}",
}


class Result(msgspec.Struct, frozen=True):
    """What happened on one engine. settled_seconds: from the last fault until everything was done."""

    engine: str
    episodes: dict[str, int]
    store_episodes: dict[str, int]
    connections: int
    cut: int
    transfers: int
    settled_seconds: float


class Network:
    """An engine and a store, and a proxy before each. The store's is the engine's own where it is the same server."""

    def __init__(self, transport: str, folder: Path, stack: ExitStack, store: str = "postgresql") -> None:
        self.transport = transport
        postgresql = stack.enter_context(PostgresqlServer(folder / "postgresql")) if store == "postgresql" else None
        port = free_port()
        server = (
            postgresql if transport == "postgresql" and postgresql else _server(transport, folder / transport, port)
        )
        self.log = stack.enter_context(FaultProxy(server.port, port=port, seed=SEED))  # Kafka asks itself through it
        if server is not postgresql:
            stack.enter_context(server)
        self.server: EngineServer = server
        self.store = self.log
        if postgresql is not None and server is not postgresql:
            self.store = stack.enter_context(FaultProxy(postgresql.port, seed=SEED))
        through = server.url.partition("?")[0].replace(f":{server.port}", f":{self.log.port}")
        stated = "sqlite"
        if postgresql is not None:
            stated = f"{postgresql.url.replace(f':{postgresql.port}', f':{self.store.port}')}?limit={LIMIT}&scan_limit={LIMIT}"
        self.engines = Engines(store=stated, transport=f"{through}?{OPTIONS[transport]}", lease=LEASE)
        self.directly = Engines(store=postgresql.url if postgresql is not None else store, transport=server.url)


def _server(name: str, folder: Path, proxied: int) -> NatsServer | KafkaServer | RabbitmqServer | RedisServer:
    if name == "kafka":  # clients go where the broker says that it is
        return KafkaServer(folder, {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxied}"})
    kinds: dict[str, Callable[[Path], NatsServer | RabbitmqServer | RedisServer]] = {
        "nats": NatsServer, "rabbitmq": RabbitmqServer, "redis": RedisServer,
    }  # fmt: skip
    return kinds[name](folder)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


def _played(plan: Sequence[Episode]) -> Iterator[tuple[bool, Episode]]:
    """The log's faults, and every now and then one of the store."""
    for number, episode in enumerate(plan, 1):
        yield False, episode
        if number % STORE_EVERY == 0:
            yield True, plan[number * 7 % len(plan)]


def lived_through(
    network: Network,
    folder: Path,
    plan: Sequence[Episode],
    removal: Removal = INTACT,
    rest_seconds: float = REST_SECONDS,
) -> tuple[End, float]:
    """How a life ended that worked during all faults of the plan, and how long it took from the last one to the rest."""
    folder.mkdir()
    enough = folder / "enough"
    longest = START_SECONDS + SETTLE_SECONDS + sum(e.seconds + rest_seconds for e in plan) * 3
    life = Life(0, engines=network.engines, until=enough, pause=PAUSE, removal=removal)
    worker = Forked(live(folder, life), seconds=longest)
    ended = _until(worker, time.monotonic() + START_SECONDS, ready=True)
    for of_store, episode in _played(plan):
        if ended is not None:
            return ended, 0.0
        proxy = network.store if of_store else network.log
        proxy.begin(episode)
        ended = _until(worker, time.monotonic() + episode.seconds)
        proxy.end()
        ended = ended or _until(worker, time.monotonic() + rest_seconds)
    healed = time.monotonic()
    enough.touch()
    ended = ended or _until(worker, healed + SETTLE_SECONDS) or worker.kill(stuck=True)
    return ended, time.monotonic() - healed


def _until(worker: Forked, moment: float, *, ready: bool = False) -> End | None:
    """Wait, and look after the worker meanwhile; its end if it came. ready: return as soon as it is."""
    while (left := moment - time.monotonic()) > 0 and not (ready and worker.ready):
        select.select([worker], [], [], min(left, worker.timeout()))
        end = worker.step()
        if end is not None:
            return end
    return None


@pytest.mark.parametrize("transport", ["nats", "kafka", "rabbitmq", "redis", "postgresql"])
def test_a_bad_network_loses_doubles_and_reorders_nothing(transport: str, tmp_path: Path, stack: ExitStack) -> None:
    network = Network(transport, tmp_path, stack)
    folder = tmp_path / "data"
    plan = [*episodes(SEED, EPISODES - len(LONG), shortest=0.05, longest=0.4), *LONG]
    end, settled = lived_through(network, folder, plan)
    log = folder / "log.txt"
    tail = "\n".join(log.read_text().splitlines()[-30:]) if log.exists() else ""
    assert end.how == "done", f"{end.how} {settled:.1f} s behind the last fault: {end.text}\n{tail}"
    wrong = violations(folder, engines=network.directly)
    assert not wrong, "\n".join(wrong[:20])
    passed, counted = network.log.passed(), network.log.counts
    assert counted.total() >= EPISODES
    assert passed.cut >= EPISODES // 2, passed  # else the faults hit nobody
    transfers = end.counts.get("bank: after COMMIT of insert numbers", 0)
    assert transfers >= EPISODES, "hardly any work was done meanwhile"
    stored = Counter[str]() if network.store is network.log else network.store.counts
    _record(
        Result(transport, dict(counted), dict(stored), passed.connections, passed.cut, transfers, round(settled, 1))
    )


def _record(result: Result) -> None:
    print(json.dumps(msgspec.to_builtins(result)))  # noqa: T201 - pytest shows it beside a failure
    played = sum(result.episodes.values())
    count(
        fault_episodes=played,
        store_fault_episodes=sum(result.store_episodes.values()),
        **{f"fault_episodes_{result.engine}": played},
        connections_cut=result.cut,
        transfers=result.transfers,
    )


def test_without_the_inbox_a_lost_confirmation_is_caught(tmp_path: Path) -> None:
    """That the judgement above can fail: what was stored and not confirmed is published again. Whether the relay has just
    published when the answers are lost is chance, so it gets several chances."""
    for number in range(PATIENCE):
        with ExitStack() as stack:  # a log of its own: what another life left in it would pass for repeats
            network = Network("nats", tmp_path / str(number), stack, store="sqlite")
            folder = tmp_path / str(number) / "data"
            end, _ = lived_through(network, folder, [Episode("mute", 0.8)] * 4, NoInbox(), rest_seconds=1.0)
        assert end.how == "done", end.text
        wrong = violations(folder, engines=network.directly)
        if any(line.startswith("booked: ") and line.endswith(" times") for line in wrong):
            return
    raise AssertionError("nobody noticed that the inbox was gone")
