"""`millstream check`: every problem at once, of settings, declarations, engines and retention."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from millstream.cli.app import run

EVENTS = """
from millstream import Call, Event, Retry, Service, Tx

class Placed(Event, topic="orders", key="order_id"):
    order_id: str

shop = Service("shop")
"""
GOOD = (
    EVENTS
    + """
shop.emits(Placed)

@shop.on(Placed, name="count")
async def count(event: Placed, tx: Tx) -> None: ...
"""
)
BAD = (
    EVENTS
    + """
@shop.on(Placed, name="count", retry=Retry(attempts=200, cap="1h"))
async def count(event: Placed, tx: Tx, ledger: dict) -> None: ...

@shop.on(Placed, name="untyped")
async def untyped(event: Placed, thing) -> None: ...

@shop.effect(Placed, name="call", timeout="20s")
async def call(event: Placed, tx: Tx) -> None: ...

@shop.get("/orders/{order_id}")
async def read(ordr_id: object) -> None: ...

twin = Service("shop", migrations="nowhere")
"""
)


class Workshop:
    """A folder with an app module of its own name, and `check --json` on it."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        self._written = 0

    def app(self, source: str, attribute: str = "shop") -> str:
        self._written += 1
        name = f"app_of_{self.folder.name.replace('-', '_')}_{self._written}"
        (self.folder / f"{name}.py").write_text(source)
        importlib.invalidate_caches()
        return f"{name}:{attribute}"

    def check(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code = run(["check", *arguments, "--json"])
        return code, json.loads(self._capsys.readouterr().out)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Workshop]:
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield Workshop(tmp_path, capsys)
    for name in set(sys.modules) - modules:
        if name.startswith("app_of_"):
            del sys.modules[name]


def _problems(report: dict[str, Any]) -> list[str]:
    return [f"{f['area']}: {f['what']}" for f in report["findings"] if f["level"] == "problem"]


def test_a_sound_app_passes_and_nothing_is_created(workshop: Workshop) -> None:
    code, report = workshop.check(workshop.app(GOOD))

    assert (code, report["ok"], _problems(report)) == (0, True, [])
    assert {f["area"] for f in report["findings"]} == {"shop", "retention", "data", "transport", "store of shop"}
    assert not (workshop.folder / "var").exists()


def test_every_problem_of_the_declarations_is_listed_at_once(workshop: Workshop) -> None:
    code, report = workshop.check(workshop.app(BAD + "\nboth = (shop, twin)\n", "both"))
    problems = "\n".join(_problems(report))

    assert code == 1
    for part in (
        "two services are called 'shop'",
        "nothing provides parameter 'ledger' of type dict",
        "parameter 'thing' needs a type",
        "no transaction: take a Call",
        "there is no folder",
        "shop/call: its call may take 20s, but a claim lasts 15s",
        "the inbox forgets after 7d",
    ):
        assert part in problems, part
    assert "nobody here declares to publish to 'orders'" in json.dumps(report)


def test_wrong_settings_do_not_hide_the_rest(workshop: Workshop) -> None:
    (workshop.folder / "millstream.toml").write_text(
        '[http]\nprot = 1\nhost = "0.0.0.0"\n[consumption]\ninbox_retention = "1d"\n'
    )
    code, report = workshop.check(workshop.app(GOOD))
    problems = _problems(report)

    assert code == 1
    assert [p.split(":")[0] for p in problems] == ["settings", "retention", "security"]
    assert "the log keeps 3d, and shop/count retries for" in problems[1]
    assert "tokens of the development key are accepted" in problems[2]


def test_an_app_that_cannot_be_imported_is_a_problem_and_not_a_crash(workshop: Workshop) -> None:
    for source, attribute, says in [
        ("1/0", "shop", "importing it raises ZeroDivisionError"),
        (
            "import nothing_like_this",
            "shop",
            "importing it raises ModuleNotFoundError: No module named 'nothing_like_this'",
        ),
        (GOOD, "shp", "shp is no service and no sequence of services; services in"),
        (GOOD + "\nmixed = (shop, 5)\n", "mixed", "is no service and no sequence of services"),
    ]:
        code, report = workshop.check(workshop.app(source, attribute))
        assert code == 1
        assert says in _problems(report)[0]
    code, report = workshop.check("no_such_module_at_all:shop")
    assert "there is no module 'no_such_module_at_all'" in _problems(report)[0]


def test_an_unknown_adapter_and_a_forgetful_log_are_problems(workshop: Workshop) -> None:
    (workshop.folder / "millstream.toml").write_text('[transport]\nurl = "memory"\n[store]\nurl = "sqlit"\n')
    _, report = workshop.check(workshop.app(GOOD))
    problems = _problems(report)

    assert "memory: a confirmed write may not survive a crash of the process" in problems[0]
    assert "there is no adapter 'sqlit'; installed are" in problems[1]


def test_provisioning_makes_topics_and_subscriptions_once(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    app = workshop.app(GOOD)
    assert run(["provision", app, "--topic", "extra", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run(["provision", app, "--json"]) == 0
    second = json.loads(capsys.readouterr().out)

    assert first == {
        "topics": [
            {"topic": "extra", "partitions": 8, "new": True},
            {"topic": "orders", "partitions": 8, "new": True},
        ],
        "subscriptions": [{"service": "shop", "subscription": "count", "topic": "orders", "new": True}],
    }
    assert [entry["new"] for entries in second.values() for entry in entries] == [False, False]

    renamed = GOOD.replace('name="count"', 'name="count-again"')
    assert run(["provision", workshop.app(renamed)]) == 2
    assert "say where it begins with --from earliest or --from now" in capsys.readouterr().err
    assert run(["provision", workshop.app(renamed), "--from", "now"]) == 0
    capsys.readouterr()

    code, report = workshop.check(app)
    assert (code, report["ok"]) == (0, True)


def test_the_settings_that_apply_are_shown_without_secrets(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLSTREAM_SERVICES__SHOP__API_KEY", "s3cret")
    _, report = workshop.check(workshop.app(GOOD), "--settings")

    assert report["settings"]["services"] == {"shop": {"api_key": "***"}}


def test_the_asyncapi_document_is_printed_and_written(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    app = workshop.app(GOOD)
    assert run(["asyncapi", app, "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["channels"]["orders"]["address"] == "orders"
    assert run(["asyncapi", app, "--out", "doc.json"]) == 0
    assert json.loads((workshop.folder / "doc.json").read_text()) == json.loads(line)
