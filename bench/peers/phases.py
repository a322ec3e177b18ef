"""What is measured of a row, in three turns, each on a database, topics and queues of its own and in a bounded time.

1. `apart`: the producer alone; then, where there is one, the relay alone; then a worker on everything that waits.
2. `together`: the worker waits for events, 100 of them a second: latency. Then as many as it can take: end to end, with the
   processor time and the memory of producer, relay and worker.
3. `killed`: the worker is killed with SIGKILL three times in the middle of a backlog and started again at once.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .database import Database, fresh_database
from .judge import judge, latencies, longest_pauses, percentile, steady_rate
from .processes import Failed, Program, cpu_seconds, memory_bytes
from .row import Row
from .servers import Engines
from .workload import Produced, Task

__all__ = ["Measured", "Sizes", "measure"]


@dataclass(frozen=True)
class Sizes:
    """How much of everything; `TINY` proves that a program works and measures nothing."""

    produce_seconds: float = 3.0
    produce_events: int = 60_000
    consume_seconds: float = 4.0
    warm_up: int = 100
    latency_events: int = 400
    latency_rate: float = 100.0
    together_seconds: float = 3.0
    together_limit: float = 10.0
    kill_events: int = 5_000
    kills: tuple[float, ...] = (0.1, 0.3, 0.5)
    """At which shares of the effects."""
    start_seconds: float = 30.0
    """Until the first effect of a started worker."""
    kill_limit: float = 150.0
    patience: float = 40.0
    """Events that have no effect after this long without any are lost."""

    def scaled(self, seconds: float | None, events: int | None) -> Sizes:
        """As long as asked for, with at most so many events."""
        sizes = self
        if seconds is not None:
            share = seconds / self.produce_seconds
            sizes = replace(
                sizes,
                produce_seconds=seconds,
                consume_seconds=self.consume_seconds * share,
                together_seconds=self.together_seconds * share,
            )
        if events is not None:
            sizes = replace(sizes, produce_events=events, kill_events=min(events, self.kill_events))
        return sizes


TINY = Sizes(0.5, 200, 2.0, 10, 30, 100.0, 0.3, 10.0, 300)


@dataclass
class Measured:
    """The figures of a row; None: not measured, `failed` says why or the row has no such figure."""

    produce: float | None = None
    relay: float | None = None
    consume: float | None = None
    end_to_end: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    cpu_ms: float | None = None
    """Of producer, relay and worker, per 1,000 events end to end."""
    engines_cpu_ms: float | None = None
    memory_mb: float | None = None
    kill_events: int | None = None
    lost: int | None = None
    doubled: int | None = None
    disordered: int | None = None
    recovery_s: float | None = None
    """The longest time without an effect after a kill."""
    failed: list[str] = field(default_factory=list[str])
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0


@dataclass(frozen=True)
class Stage:
    """What a turn has at hand."""

    row: Row
    sizes: Sizes
    database: Database
    environment: Mapping[str, str]
    engines: Sequence[int]
    """Their processes."""
    log: Path
    programs: ExitStack

    def start(self, task: Task) -> Program:
        """Start a program of the row; it is killed at the latest when the turn ends."""
        program = Program(self.row.command(task), self.environment, self.log)
        self.programs.callback(program.kill)
        return program

    def produce(self, task: Task) -> Produced:
        """Run a producer to its end."""
        return self.start(task).produced(task.seconds + 60.0)

    def provision(self) -> None:
        if self.row.provisions:
            self.start(Task("provision")).finish(60.0)

    def relay(self) -> Program | None:
        """The relay, where it is a process of its own."""
        return self.start(Task("relay")) if self.row.relay == "process" else None


def measure(row: Row, sizes: Sizes, engines: Engines, folder: Path) -> Measured:
    """Take every turn that the row has; one that fails is noted and the others are still taken.

    folder: for the logs of the programs.
    """
    found, began = Measured(), time.monotonic()
    for turn in (apart, together, killed):
        if turn is killed and not row.kills:
            continue
        started = time.monotonic()
        try:
            with _stage(row, sizes, engines, folder, turn.__name__) as stage:
                stage.provision()
                turn(stage, found)
        except Failed as error:
            found.failed.append(f"{turn.__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - an engine that breaks must not end the run; the row says what it was
            found.failed.append(f"{turn.__name__}: {type(error).__name__}: {error}")
        found.details[f"{turn.__name__}_seconds"] = round(time.monotonic() - started, 1)
    found.seconds = round(time.monotonic() - began, 1)
    return found


@contextmanager
def _stage(row: Row, sizes: Sizes, engines: Engines, folder: Path, turn: str) -> Generator[Stage]:
    name = f"{row.name}_{turn}".replace("-", "_")
    with fresh_database(engines.url("postgresql"), name, row.tables) as database, ExitStack() as programs:
        environment = {f"PEER_{name.upper()}": engines.url(name) for name in row.engines}
        environment |= {"PEER_POSTGRESQL": database.url, "PEER_TOPIC": name, **row.environment}
        pids = [engines.pid(name) for name in row.engines]
        yield Stage(row, sizes, database, environment, pids, folder / f"{row.name}.log", programs)


def apart(stage: Stage, found: Measured) -> None:
    """The producer, the relay and the worker one after another."""
    sizes, row = stage.sizes, stage.row
    task = Task(row.fill, sizes.produce_events, sizes.produce_seconds, per_tx=row.per_tx)
    produced = stage.produce(task)
    found.produce = produced.events / produced.seconds
    found.details["produced"] = {
        "events": produced.events,
        "cpu_ms": _per_thousand(produced.cpu_seconds, produced.events),
    }
    if row.relay != "none":
        relay = stage.start(Task("relay", events=produced.events))
        found.relay = _relayed(stage, relay, produced.events)
        relay.kill()
    worker = stage.start(Task("work"))
    if not stage.database.wait_for(1, sizes.start_seconds, worker.check):
        raise Failed(f"no effect within {sizes.start_seconds:.0f} s")
    stage.database.wait_for(produced.events, sizes.consume_seconds, worker.check)
    worker.kill()
    effects = stage.database.effects()
    found.consume = steady_rate(effects)
    found.details["consumed"] = {"effects": len(effects), "of": produced.events}


def _relayed(stage: Stage, relay: Program, events: int) -> float | None:
    """Events per second of the relay alone, once it has begun.

    Raises:
        Failed: not all had left after 20 s.
    """
    statement = stage.row.relayed
    until = time.monotonic() + 20.0
    began: tuple[float, int] | None = None
    while time.monotonic() < until:
        relay.check()
        done, now = int(stage.database.number(statement.replace("$events", str(events)))), time.monotonic()
        if began is None and done > 0:
            began = (now, done)
        if done >= events:
            if began is None or began[1] >= events:
                return None  # too few of them: gone between two looks
            return (events - began[1]) / max(now - began[0], 1e-3)
        time.sleep(0.05)
    raise Failed("the relay had not passed everything on after 20 s")


def together(stage: Stage, found: Measured) -> None:
    """Latency, then everything at once."""
    sizes, row = stage.sizes, stage.row
    relay, worker = stage.relay(), stage.start(Task("work"))

    def check() -> None:
        worker.check()
        if relay is not None:
            relay.check()

    done = stage.produce(Task("produce", sizes.warm_up, per_tx=row.per_tx)).events
    if not stage.database.wait_for(done, sizes.start_seconds, check):
        raise Failed(f"{stage.database.different()} of the first {done} events handled in {sizes.start_seconds:.0f} s")
    if row.per_tx == 1:
        first = done
        done += stage.produce(Task("produce", sizes.latency_events, rate=sizes.latency_rate, first=first)).events
        stage.database.wait_for(done, 10.0, check)
        found_ms = [s * 1e3 for s in latencies(stage.database.published(first), stage.database.effects(first))]
        if len(found_ms) < sizes.latency_events:
            found.failed.append(f"latency: {sizes.latency_events - len(found_ms)} events had no effect after 10 s")
        else:
            found.p50_ms, found.p99_ms = percentile(found_ms, 50), percentile(found_ms, 99)
            found.details["latency_ms"] = [round(value, 3) for value in found_ms]
    first, own = done, [worker.pid, *([] if relay is None else [relay.pid])]
    rates = [rate for rate in (found.produce, found.consume) if rate is not None]
    events = round(min(max(min(rates, default=1_000.0) * sizes.together_seconds, 300), sizes.produce_events))
    before, engines_before = cpu_seconds(*own), cpu_seconds(*stage.engines)
    produced = stage.produce(Task("produce", events, sizes.together_limit, first=first, per_tx=row.per_tx))
    complete = stage.database.wait_for(done + produced.events, sizes.together_limit, check)
    used = cpu_seconds(*own) - before + produced.cpu_seconds
    engines_used = cpu_seconds(*stage.engines) - engines_before
    found.memory_mb = memory_bytes(*own) / 1e6
    published, effects = stage.database.published(first), stage.database.effects(first)
    if not effects:
        raise Failed("no event came through")
    ended = max(effect.committed_us for effect in effects)
    found.end_to_end = len(effects) / (ended - min(published.values())) * 1e6
    found.cpu_ms = _per_thousand(used, len(effects))
    found.engines_cpu_ms = _per_thousand(engines_used, len(effects))
    found.details["together"] = {"events": produced.events, "effects": len(effects), "complete": complete}


def killed(stage: Stage, found: Measured) -> None:
    """Three kills while a backlog waits; then until everything is back, or nothing more comes."""
    sizes, row = stage.sizes, stage.row
    events = min(sizes.kill_events, row.kill_events)
    produced = stage.produce(Task("produce", events))
    relay, worker = stage.relay(), stage.start(Task("work"))
    kills: list[int] = []
    for share in sizes.kills:
        reached = stage.database.wait_for_written(round(share * events), sizes.kill_limit / 3, worker.check)
        if not reached:
            found.details["kills_missed"] = len(sizes.kills) - len(kills)
            break
        kills.append(worker.kill())
        worker = stage.start(Task("work"))
    stage.database.wait_for(produced.events, sizes.kill_limit, worker.check, sizes.patience)
    # What the engine still holds for the worker that was killed would come as a second effect.
    rest = row.redelivery_seconds + 2.0 - (time.time() - kills[-1] / 1e6) if kills else 0.0
    time.sleep(max(1.0, rest) if sizes.kill_events > TINY.kill_events else 0.5)
    if relay is not None:
        relay.check()
    effects = stage.database.effects()
    verdict = judge(stage.database.published(), effects)
    found.kill_events, found.lost = verdict.events, verdict.lost
    found.doubled, found.disordered = verdict.doubled, verdict.disordered
    pauses = longest_pauses(kills, effects)
    found.recovery_s = max(pauses, default=None)
    found.details["pauses_s"] = [round(pause, 2) for pause in pauses]


def _per_thousand(seconds: float, events: int) -> float:
    """Milliseconds per 1,000 events."""
    return seconds / max(1, events) * 1e6
