"""The command line itself: every command is there, starts fast, and its errors become lines and exit codes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import millstream
import pytest
from millstream import MillstreamError, Misconfigured
from millstream.cli import app as cli
from millstream.cli.app import COMMANDS, run
from millstream.cli.exits import NotReachable

HEAVY = ("aiohttp", "apsw", "prometheus_client", "rich.table", "starlette", "uvicorn", "uvloop")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MILLSTREAM_")]:
        monkeypatch.delenv(name)


def test_every_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out

    assert set(COMMANDS) == {
        "up", "run", "check", "tail", "publish", "lanes", "dlq", "outbox", "provision", "asyncapi", "token", "new", "load",
        "relay", "simulate",
    }  # fmt: skip
    for name in COMMANDS:
        assert re.search(rf"│ {name} ", listed), name


@pytest.mark.parametrize(
    "command", [*COMMANDS, "lanes skip", "dlq list", "dlq show", "dlq redrive", "dlq drop", "outbox row", "outbox free"]
)
def test_every_command_explains_itself_and_speaks_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command.split(), "--help"]) == 0

    shown = capsys.readouterr().out
    assert "Usage: millstream" in shown
    if command != "dlq":
        assert "--json" in shown


@pytest.mark.parametrize(
    "arguments", [["nope"], ["lanes", "--nope"], ["token"], ["tail"], ["lanes", "--state", "odd"], ["load"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["lanes"], ["dlq", "list"], ["outbox"], ["tail", "orders"], ["lanes", "--url", "127.0.0.1:1", "--token", "t"]],
)
def test_nobody_there_exits_with_3_and_says_what_to_do(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 3
    assert "millstream up" in capsys.readouterr().err


def test_wrong_settings_exit_with_2_and_list_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("millstream.toml").write_text("[http]\nprot = 1\nport = 70000\n")

    assert run(["token", "--subject", "ann"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "millstream: millstream.toml: http.prot: no such setting; did you mean http.port?",
        "millstream: http.port = 70000: a port is 0 to 65535",
    ]


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (Misconfigured(["a", "b"]), 2, ["a", "b"]),
        (NotReachable("gone"), 3, ["gone"]),
        (MillstreamError("refused"), 1, ["refused"]),
        (KeyboardInterrupt(), 130, []),
        (
            ExceptionGroup(
                "", [MillstreamError("x"), ExceptionGroup("", [Misconfigured(["y"]), MillstreamError("x")])]
            ),
            1,
            ["x", "y"],
        ),
        (ExceptionGroup("", [Misconfigured("y")]), 2, ["y"]),
    ],
)
def test_errors_become_lines_and_codes(
    error: BaseException,
    code: int,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken() -> object:
        def call(*_: object, **__: object) -> None:
            raise error

        return call

    monkeypatch.setattr(cli, "build", broken)

    assert run(["lanes"]) == code
    assert capsys.readouterr().err.splitlines() == [f"millstream: {line}" for line in lines]


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def call(*_: object, **__: object) -> None:
        raise ExceptionGroup("", [MillstreamError("x"), ZeroDivisionError()])

    monkeypatch.setattr(cli, "build", lambda: call)

    with pytest.raises(ExceptionGroup):
        run(["lanes"])


def test_a_token_costs_no_import_that_it_does_not_need() -> None:
    code = (
        "import sys\nfrom millstream.cli.app import run\n"
        "assert run(['token', '--subject', 'ann', '--role', 'operator']) == 0\n"
        f"print(*[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    token, loaded = done.stdout.split("\n")[:2]

    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", token)
    assert loaded == ""


def test_a_token_is_one_line_and_its_key_stays(capsys: pytest.CaptureFixture[str]) -> None:
    import jwt

    assert (
        run(["token", "--subject", "ann", "--role", "operator", "--role", "auditor", "--tenant", "t1", "--data", "d"])
        == 0
    )
    (token,) = capsys.readouterr().out.splitlines()
    claims = jwt.decode(token, options={"verify_signature": False})

    assert (claims["sub"], claims["roles"], claims["tenant"]) == ("ann", ["operator", "auditor"], "t1")
    key = Path("d/development.key")
    assert key.stat().st_mode & 0o077 == 0
    before = key.read_bytes()
    assert run(["token", "--subject", "bob", "--data", "d"]) == 0
    assert key.read_bytes() == before


def test_no_development_token_where_an_issuer_signs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLSTREAM_AUTH__JWKS", "https://issuer.example/jwks")

    assert run(["token", "--subject", "ann"]) == 2
    assert "get one from the issuer" in capsys.readouterr().err


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "millstream", "--version"], capture_output=True, text=True, check=True, timeout=30
    )
    assert re.match(r"\d+\.\d+", done.stdout)
    assert millstream.__all__
