"""The supervisor of a split system: processes come back, stop in order, and never outlive it. Real kills."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .split_system import SplitSystem, alive, until


@pytest.fixture
def system(tmp_path: Path) -> Iterator[SplitSystem]:
    made = SplitSystem(tmp_path, HTTP__GRACE="20s", HTTP__DRAIN_DELAY="200ms")
    try:
        yield made
    finally:
        made.close()


def test_a_system_survives_its_processes_and_leaves_nobody_behind(system: SplitSystem) -> None:
    system.start()
    assert system.note("before").status == 201

    # A process that is killed comes back on its addresses. Calls to it wait, or are tried again with their key.
    for number, name in enumerate(("back-0", "reader-0")):
        killed = system.pid_of(name)
        os.kill(killed, signal.SIGKILL)
        assert system.note(f"killed {number}").status == 201
        until(lambda name=name, killed=killed: system.pid_of(name) != killed, f"{name} is started anew")
    until(lambda: system.call("GET", "/ready").status == 200, "everybody is ready again")
    until(lambda: set(system.read()) == {"before", "killed 0", "killed 1"}, "all events are read")
    assert '"event":"process_ended"' in system.said()

    # So does the log's server: what was accepted meanwhile is read when it is back.
    nats = _pid_of_nats(system)
    os.kill(nats, signal.SIGKILL)
    assert system.note("without a log").status == 201
    until(lambda: "without a log" in system.read(), "the log is back and the event is read")

    # SIGTERM: in order, everybody ends with 0.
    system.seen |= set(system.children())
    assert system.stop() == 0, system.said()
    assert not any(alive(pid) for pid in system.seen)
    draining = [
        json.loads(line)["process"]
        for line in system.log.read_text().splitlines()
        if '"event":"draining"' in line and line.startswith('{"process"')
    ]
    assert draining[0] == "front-0"
    assert sorted(draining[1:]) == ["back-0", "reader-0"]
    assert list((system.data / "processes").glob("*.json")) == []
    assert not (system.data / "admin.json").exists()

    # The data is still there.
    system.start()
    assert system.note("before").json() == {"by": "ann"}
    assert set(system.read()) >= {"before", "killed 0", "killed 1", "without a log"}

    # kill -9 of the supervisor: its processes stop by themselves, and another one starts on their data.
    children = system.children()
    assert len(children) == 4
    assert system.process is not None
    system.process.kill()
    system.wait()
    until(lambda: not any(alive(pid) for pid in children), "nobody is left")
    system.start()
    assert set(system.read()) >= {"before", "killed 0", "killed 1", "without a log"}

    # A second system on the same data is refused at once, and does not disturb the first.
    second = SplitSystem(system.folder)
    second.log = system.folder / "second"
    second.begin()
    assert second.wait() == 2
    assert "another system runs on" in second.said()
    assert system.note("undisturbed").status == 201
    assert system.stop() == 0


def test_requests_under_way_get_their_replies_while_the_system_stops(system: SplitSystem) -> None:
    system.start()
    answers: list[int] = []
    refused = threading.Event()

    def order(client: int) -> None:
        number = 0
        while not refused.is_set():
            number += 1
            try:
                answers.append(system.note(f"{client}-{number}").status)
            except OSError:
                refused.set()  # nobody listens any more

    clients = [threading.Thread(target=order, args=(n,)) for n in range(4)]
    for client in clients:
        client.start()
    until(lambda: len(answers) > 20, "requests flow")
    assert system.stop() == 0, system.said()
    for client in clients:
        client.join(30)
    assert set(answers) == {201}
    accepted = len(answers)
    system.start()
    until(lambda: len(system.read()) == accepted, "everything that was accepted is read once")
    assert system.stop() == 0


def test_a_second_signal_ends_it_at_once_and_nobody_is_left(system: SplitSystem) -> None:
    system.start()
    assert system.process is not None
    system.process.send_signal(signal.SIGTERM)
    until(lambda: '"event":"draining"' in system.said(), "it drains")
    began = time.monotonic()
    system.process.send_signal(signal.SIGINT)
    assert system.wait() == 130
    assert time.monotonic() - began < 2.0


@pytest.mark.parametrize(
    ("options", "settings", "says"),
    [
        (("--workers", "2"), {}, "2 workers of front cannot share a store on sqlite"),
        ((), {"SPLIT__EDGE": "nobody"}, "split.edge = nobody: no service has this name; there are front, back, reader"),
        ((), {"SPLIT__WORKERS_OF__BAKC": "2"}, "split.workers_of.bakc: no service has this name"),
        (("--transport", "nowhere://x"), {}, "there is no adapter 'nowhere'"),
        (("--reload",), {}, "--reload watches one process"),
    ],
)
def test_what_cannot_be_split_is_refused_before_anything_starts(
    tmp_path: Path, options: tuple[str, ...], settings: dict[str, str], says: str
) -> None:
    system = SplitSystem(tmp_path, *options, **settings)
    system.begin()
    assert system.wait() == 2
    assert says in system.said()
    assert not (system.data / "nats").exists()


def test_a_process_that_cannot_start_ends_the_system_with_its_reason(tmp_path: Path) -> None:
    system = SplitSystem(tmp_path)
    system.data.mkdir()
    (system.data / "back.db").write_text("this is no database, and longer than a header of one hundred bytes " * 4)
    system.begin()
    assert system.wait() in (1, 2)
    said = system.log.read_text()
    assert "back-0" in said
    assert '"event":"process_failed_to_start"' in said
    until(lambda: _nobody_works_on(system.data), "nobody is left")


def _pid_of_nats(system: SplitSystem) -> int:
    return next(
        pid for pid in system.children() if "nats-server" in Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    )


def _nobody_works_on(data: Path) -> bool:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(data) in (process / "environ").read_text(errors="replace") and alive(int(process.name)):
                return False
        except OSError:
            continue
    return True
