"""The operator's commands on a running `millstream up`: from a failing handler to an empty dead-letter list."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from millstream.cli.app import run

APP = """
from pathlib import Path
from millstream import Event, Permanent, Service, Tx

class Placed(Event, topic="orders", key="order_id"):
    order_id: str
    n: int

class Counted(Event, topic="counts", key="order_id"):
    order_id: str

shop = Service("shop")
shop.emits(Placed)

@shop.on(Placed, name="count")
async def count(event: Placed, tx: Tx) -> Counted:
    if event.n < 0:
        raise Permanent(f"{event.n} is below zero")
    return Counted(event.order_id)
"""


class Live:
    """A running system in a folder of its own."""

    def __init__(self, folder: Path, child: subprocess.Popen[str], ready: dict[str, Any]) -> None:
        self.folder = folder
        self.child = child
        self.ready = ready


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("live")
    (folder / "live_shop.py").write_text(APP)
    command = [sys.executable, "-m", "millstream", "up", "live_shop:shop", "--port", "0", "--json"]
    with (folder / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    assert child.stdout is not None
    try:
        line = child.stdout.readline()
        assert line, (folder / "log").read_text()
        yield Live(folder, child, json.loads(line))
    finally:
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
        code = child.wait(40)
        child.stdout.close()
    assert code == 0, (folder / "log").read_text()
    assert not (folder / "var" / "admin.json").exists()


@pytest.fixture
def ask(live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command with --json; its exit code must be as expected, its last line is the result."""
    monkeypatch.chdir(live.folder)
    monkeypatch.delenv("MILLSTREAM_URL", raising=False)
    monkeypatch.delenv("MILLSTREAM_TOKEN", raising=False)

    def command(*arguments: str, code: int = 0) -> Any:
        found = run([*arguments, "--json"])
        captured = capsys.readouterr()
        assert found == code, captured
        return [json.loads(line) for line in captured.out.splitlines()]

    return command


def _until(condition: Callable[[], Any]) -> Any:
    for _ in range(200):
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come about")


def _publish(ask: Callable[..., Any], order_id: str, n: int) -> None:
    ask("publish", "orders", "Placed", json.dumps({"order_id": order_id, "n": n}))


def test_readiness_is_announced_and_its_address_is_for_the_owner_only(live: Live) -> None:
    assert live.ready["ready"] is True
    assert live.ready["url"].startswith("http://127.0.0.1:")
    assert live.ready["seconds"] < 10
    assert (live.folder / "var" / "admin.json").stat().st_mode & 0o077 == 0


def test_what_is_published_can_be_tailed(ask: Callable[..., Any]) -> None:
    _publish(ask, "tailed", 1)

    lines = ask("tail", "orders", "--from", "earliest", "--no-follow", "--key", "tailed")
    assert [line["message"]["data"] for line in lines] == [{"order_id": "tailed", "n": 1}]
    _until(lambda: ask("tail", "counts", "--from", "earliest", "--no-follow", "--key", "tailed"))
    ask("publish", "orders", "Placed", "{}", code=1)
    ask("tail", "nope", code=1)


def test_a_dead_letter_is_found_looked_at_and_redriven_with_an_edit(ask: Callable[..., Any]) -> None:
    _publish(ask, "edited", -1)
    _publish(ask, "edited", 2)
    (page,) = _until(lambda: [p for p in ask("dlq", "list", "--key", "edited") if p["dead_letters"]])
    (letter,) = page["dead_letters"]

    assert (letter["subscription"], letter["holds_lane"]) == ("count", True)
    (shown,) = ask("dlq", "show", letter["id"])
    assert "-1 is below zero" in shown["error"]
    assert json.loads(shown["message"])["data"] == {"order_id": "edited", "n": -1}
    (lanes,) = ask("lanes", "--key", "edited")
    assert [(lane["state"], lane["parked"]) for lane in lanes["lanes"]] == [("held", 1)]

    (dry,) = ask("dlq", "redrive", "--key", "edited", "--dry-run")
    assert (dry["matched"], dry["moved"]) == (1, 0)
    Path("edit.json").write_text('{"order_id": "edited", "n": 7}')
    (done,) = ask("dlq", "redrive", letter["id"], "--edit", "edit.json")
    assert (done["moved"], done["ids"]) == (1, [letter["id"]])
    _until(lambda: len(ask("tail", "counts", "--from", "earliest", "--no-follow", "--key", "edited")) == 2)
    _until(lambda: ask("lanes", "--key", "edited")[0]["lanes"] == [])
    ask("dlq", "show", letter["id"], code=1)
    ask("dlq", "redrive", letter["id"], code=1)


def test_dropping_asks_first_and_lets_the_lane_go_on(ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no terminal
    _publish(ask, "dropped", -1)
    _publish(ask, "dropped", 3)
    _until(lambda: ask("dlq", "list", "--key", "dropped")[0]["dead_letters"])

    ask("dlq", "drop", "--key", "dropped", code=2)
    assert ask("dlq", "list", "--key", "dropped")[0]["dead_letters"]
    (done,) = ask("dlq", "drop", "--key", "dropped", "--yes")
    assert (done["action"], done["moved"]) == ("drop", 1)
    _until(lambda: len(ask("tail", "counts", "--from", "earliest", "--no-follow", "--key", "dropped")) == 1)


def test_redrive_by_rate_moves_all_of_them(ask: Callable[..., Any]) -> None:
    for n in range(4):
        _publish(ask, f"rate-{n}", -1)
    _until(lambda: len(ask("dlq", "list", "--reason", "below zero")[0]["dead_letters"]) == 4)

    (done,) = ask("dlq", "redrive", "--reason", "below zero", "--rate", "20")
    assert done["moved"] == 4
    _until(lambda: len(ask("dlq", "list", "--limit", "0")[0]["dead_letters"]) == 4)
    (done,) = ask("dlq", "drop", "--all", "--yes")
    assert done["moved"] == 4
    assert ask("dlq", "list")[0]["dead_letters"] == []
    ask("dlq", "redrive", code=1)


def test_outbox_positions_and_check_speak_of_the_running_system(ask: Callable[..., Any], live: Live) -> None:
    (outbox,) = ask("outbox")
    assert [(o["service"], o["held"]) for o in outbox["outbox"]] == [("shop", [])]
    ask("outbox", "row", "--service", "shop", "--topic", "orders", "--key", "x", code=1)
    ask("outbox", "free", "--service", "shop", "--topic", "orders", "--key", "x", code=1)
    (lanes,) = ask("lanes", "--all")
    assert len(lanes["positions"]) == 8
    ask("lanes", "skip", "--service", "nope", "--subscription", "s", "--partition", "0", "--to", "5", code=1)
    (report,) = ask("check", "live_shop:shop")
    assert any("in use by the process at" in finding["what"] for finding in report["findings"])


def test_a_second_process_on_the_same_folder_is_refused(live: Live) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "millstream", "up", "live_shop:shop", "--port", "0"],
        cwd=live.folder, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert again.returncode == 2, again.stderr
    assert (live.folder / "var" / "admin.json").exists()


def test_for_people_there_are_tables(
    live: Live, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(live.folder)
    for arguments, says in [
        (["lanes"], "Every lane flows."),
        (["lanes", "--all"], "Positions"),
        (["dlq", "list"], "No dead letters."),
        (["outbox"], "Outbox"),
        (["tail", "orders", "--from", "earliest", "--limit", "1"], "Placed"),
    ]:
        assert run(arguments) == 0
        assert says in capsys.readouterr().out
