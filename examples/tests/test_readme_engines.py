"""The README's way to real engines does what it says: its commands are taken out, and run against the engines they start.

`make engines` and `make up` are run as what they stand for (`test_readme.py` and below), since a test has no port 8080 and
no terminal of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## On real engines\n")[2].partition("\n## ")[0]
COMMANDS = [line for block in re.findall(r"^```bash\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL) for line in block.splitlines()]  # fmt: skip
PATIENCE_SECONDS = 90.0

STARTING = [shlex.split(line[len("make engines ARGS=") :])[0] for line in COMMANDS if line.startswith("make engines")]
FUNCTION = next(line for line in COMMANDS if line.startswith("url()"))
UPS = [line.removeprefix('make up ARGS="').removesuffix('"') for line in COMMANDS if line.startswith("make up")]
ORDER = {
    "customer": "2375", "currency": "USD", "total": 350, "payment": {"method": "sim_ok"},
    "lines": [{"product": "1081177", "quantity": 1, "amount": 350}],
}  # fmt: skip


def test_make_engines_is_the_command_that_the_other_tests_start() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^engines:.*\n\t@exec \$\(BIN\)/python scripts/engines.py \$\(ARGS\)$", makefile, re.MULTILINE)
    assert len(UPS) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which `make engines` runs."""
    (arguments,) = STARTING
    place = tmp_path_factory.mktemp("readme")
    command = [sys.executable, str(ROOT / "scripts" / "engines.py"), *arguments.split()]
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _wait_for(lambda: (place / "var" / "engines.json").exists() or process.poll() is not None)
        assert process.poll() is None
        yield place
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said


@pytest.mark.parametrize("arguments", UPS, ids=lambda arguments: arguments.rpartition("url ")[2].strip(")"))
def test_an_order_goes_its_way_on_the_engines_of_the_readme(folder: Path, arguments: str) -> None:
    with _up(folder, arguments) as url:
        token = subprocess.run(
            [sys.executable, "-m", "millstream", "token", "--subject", "ann"],
            cwd=folder, env=_environment(), capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip
        placed = _ask(url, "/orders", token, ORDER)
        order = f"/orders/{placed['id']}"
        _wait_for(lambda: _ask(url, order, token)["state"] == "CONFIRMED")
        told = f"/notifications?order={placed['id']}"
        _wait_for(lambda: [notice["kind"] for notice in _ask(url, told, token)] == ["order.confirmed"])


@contextmanager
def _up(folder: Path, arguments: str) -> Iterator[str]:
    """The address of a system that the README's arguments start; it ends in order, with all of its processes."""
    port = _free_port()
    script = f"{FUNCTION}\nexec {sys.executable} -m millstream up --port {port} {arguments}"
    with open(folder / "up.log", "wb") as log:
        process = subprocess.Popen(["bash", "-c", script], cwd=folder, env=_environment(), stdout=log, stderr=log)
    children: list[str] = []
    try:
        _wait_for(lambda: process.poll() is not None or b"Millstream is ready" in (folder / "up.log").read_bytes())
        assert process.poll() is None, (folder / "up.log").read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        yield f"http://127.0.0.1:{port}"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0, (folder / "up.log").read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert len(children) == 4, "gateway, orders, payments, notifications"
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _ask(url: str, path: str, token: str, body: object = None) -> Any:
    headers = {
        "authorization": f"Bearer {token}",
        "content-type": "application/json",
        "idempotency-key": f"{url}{path}",
    }
    payload = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url + path, payload, headers), timeout=30) as reply:
        return json.loads(reply.read())


def _wait_for(condition: Any) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in time"
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
