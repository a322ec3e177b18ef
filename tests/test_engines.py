"""`make engines` starts what it is asked for, says where it is, and leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "engines.py"
NAMES = ("postgresql", "nats", "kafka", "rabbitmq", "redis")
PATIENCE = 120


def start(output: Path, *names: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), *names, "--output", str(output)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("ready"):
            return said
    assert process.stderr is not None
    pytest.fail(f"it ended:\n{said}{process.stderr.read()}")


def listens(url: str) -> bool:
    place = urlsplit(url)
    with socket.socket() as probe:
        probe.settimeout(5)
        return probe.connect_ex((place.hostname or "", place.port or 0)) == 0


def test_all_engines_start_and_stop_and_their_urls_are_there_meanwhile(tmp_path: Path) -> None:
    output = tmp_path / "var" / "engines.json"
    process = start(output)
    try:
        said = until_ready(process)
        urls = json.loads(output.read_text())
        assert tuple(urls) == NAMES
        assert all(listens(url) for url in urls.values())
        assert all(url in said for url in urls.values())
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors
    assert not output.exists()
    assert not any(listens(url) for url in urls.values()), "stopped, all of them"


def test_only_those_that_are_named_start(tmp_path: Path) -> None:
    process = start(tmp_path / "engines.json", "nats", "redis")
    try:
        until_ready(process)
        urls = json.loads((tmp_path / "engines.json").read_text())
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
    assert list(urls) == ["nats", "redis"]
    assert process.returncode == 0


def test_a_name_that_is_none_lists_those_that_are(tmp_path: Path) -> None:
    process = start(tmp_path / "engines.json", "rabitmq")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert "rabitmq" in errors
    assert all(name in errors for name in NAMES)


def test_an_engine_that_ends_by_itself_ends_the_others_loudly(tmp_path: Path) -> None:
    process = start(tmp_path / "engines.json", "nats", "redis")
    until_ready(process)
    urls = json.loads((tmp_path / "engines.json").read_text())
    place = urlsplit(urls["redis"])
    with socket.create_connection((place.hostname or "", place.port or 0)) as client:
        client.sendall(b"SHUTDOWN NOSAVE\r\n")
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert "redis" in errors
    assert not listens(urls["nats"])
