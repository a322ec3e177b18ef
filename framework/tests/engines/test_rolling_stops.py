"""A rolling restart under load: two processes share the work, each in turn is replaced by a new one and told to stop by SIGTERM.
It gives back what it holds, the others take it at once, and nothing is lost, doubled or out of order.

`MILLSTREAM_ROLLING_STOPS=1000` replaces so many processes instead of five.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import deque
from pathlib import Path

from millstream.testing.crash.counts import count
from millstream.testing.crash.forked import End, Forked
from millstream.testing.engines.nats import NatsServer
from millstream.testing.engines.postgresql import PostgresqlServer

sys.path.insert(0, str(Path(__file__).parents[1] / "crash"))

from invariants import violations  # pyright: ignore[reportMissingImports] - the crash suite's, on the path since above
from life import Engines, Life, live  # pyright: ignore[reportMissingImports] - as above

STOPS = int(os.environ.get("MILLSTREAM_ROLLING_STOPS", "5"))
PAUSE = 0.1
"""Behind each transfer of one of the three producers of a process."""
LIFE_SECONDS = 90.0 + 10.0 * STOPS
READY_SECONDS = 60.0
LEASE = 30.0
"""Far longer than a stop takes: what is taken over before was given back."""
KEPT = "SELECT subscription, partition, owner FROM millstream_claims WHERE owner IS NOT NULL"


def _ready(worker: Forked) -> Forked:
    until = time.monotonic() + READY_SECONDS
    while not worker.ready:
        select.select([worker], [], [], 0.5)
        end = worker.step()
        assert end is None, f"{end.how} before it was ready: {end.text}"
        assert time.monotonic() < until, "it did not start"
    return worker


def _stopped(worker: Forked) -> End:
    os.kill(worker.pid, signal.SIGTERM)
    return worker.wait()


def test_a_rolling_restart_under_load_loses_doubles_and_reorders_nothing(tmp_path: Path) -> None:
    with PostgresqlServer(tmp_path / "postgresql") as postgresql, NatsServer(tmp_path / "nats") as nats:
        engines = Engines(store=postgresql.url, transport=nats.url, lease=LEASE)
        folder = tmp_path / "data"
        folder.mkdir()

        def begun() -> Forked:
            return _ready(
                Forked(live(folder, Life(2**31, engines=engines, pause=PAUSE, stops=True)), seconds=LIFE_SECONDS)
            )

        at_work, transfers = deque([begun(), begun()]), 0
        try:
            for _ in range(STOPS):
                at_work.append(begun())
                end = _stopped(at_work.popleft())
                assert end.how == "done", f"{end.how}: {end.text}"
                transfers += end.counts.get("bank: after COMMIT of insert numbers", 0)
            while at_work:
                end = _stopped(at_work.popleft())
                assert end.how == "done", f"{end.how}: {end.text}"
        finally:
            for worker in at_work:
                worker.kill()
        kept = [row for name in ("bank", "till") for row in postgresql.execute(KEPT, name)]
        assert not kept, f"not given back, so that others wait for a lease: {kept}"
        end = Forked(live(folder, Life(0, engines=engines)), seconds=LIFE_SECONDS).wait()
        assert end.how == "done", f"{end.how}: {end.text}"
        wrong = violations(folder, engines=engines)
        assert not wrong, "\n".join(wrong[:20])
        assert transfers > STOPS, "hardly any work was done meanwhile"
        count(rolling_stops=STOPS, transfers=transfers)
