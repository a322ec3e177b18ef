"""The README's commands do what it says: its blocks are taken out, and run in order against real servers.

A `sh` block runs in a shell; the `text` block behind it is what it prints, with `…` for anything. A block that starts a
server (`make up`, `millstream up`) is started beside the shell, on a free port. A block whose first line is a comment
with a file's name is that file.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATIENCE_SECONDS = 60.0

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"(?:#|--) (\S+\.\w+)\n")
_PORT = re.compile(r"--port (\d+)")
MARK = "===== end of block"


@dataclass(frozen=True)
class Block:
    """One fenced block of the README."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        named = _FILE.match(self.text)
        return named[1] if named is not None and self.language != "sh" else None

    @property
    def is_server(self) -> bool:
        return self.language == "sh" and (self.text == "make up\n" or ".venv/bin/millstream up " in self.text)


BLOCKS = [Block(language, text) for language, text in _BLOCK.findall(README)]


def test_make_up_is_the_command_that_the_other_tests_start() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^up:.*\n\t@exec \$\(BIN\)/millstream up \$\(ARGS\)$", makefile, re.MULTILINE)


def test_the_printed_service_has_25_lines() -> None:
    (service,) = [block for block in BLOCKS if block.file == "shop.py"]
    assert len(service.text.splitlines()) - 1 <= 25


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_a_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_command_of_the_readme_works_and_prints_what_stands_there(tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    shutil.copy(ROOT / "millstream.toml", tmp_path)
    expected: list[str] = []
    commands: list[str] = ["set -euo pipefail"]
    ports: dict[str, int] = {}
    with ExitStack() as servers:
        for at, block in enumerate(BLOCKS):
            if block.file is not None:
                path = tmp_path / block.file
                path.parent.mkdir(exist_ok=True)
                path.write_text(block.text, encoding="utf-8")
            elif block.is_server:
                asked = _PORT.search(block.text)
                arguments = ["up"] if asked is None else block.text.split()[1:]
                port = ports[asked[1] if asked else "8080"] = _free_port()
                arguments = [*(str(port) if asked and word == asked[1] else word for word in arguments)]
                servers.enter_context(
                    _server(tmp_path, arguments if asked else [*arguments, "--port", str(port)], port)
                )
            elif block.language == "sh":
                following = BLOCKS[at + 1] if at + 1 < len(BLOCKS) else None
                expected.append(following.text if following is not None and following.language == "text" else "…")
                commands += [block.text, f"echo; echo '{MARK}'"]
        script = "\n".join(commands)
        for written, port in ports.items():
            script = script.replace(f"localhost:{written}", f"localhost:{port}")
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env=_environment(), capture_output=True, text=True, check=False,
            timeout=PATIENCE_SECONDS,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [part.strip() for part in done.stdout.split(MARK)[:-1]]
    assert len(printed) == len(expected)
    for part, pattern in zip(printed, expected, strict=True):
        # Only `…` is a wildcard: what fnmatch gives a meaning of its own is taken literally.
        literal = re.sub(r"[\[?*]", lambda found: f"[{found[0]}]", pattern.strip())
        assert fnmatchcase(part, literal.replace("…", "*")), f"{part}\nis not\n{pattern}"


@contextmanager
def _server(folder: Path, arguments: list[str], port: int) -> Iterator[None]:
    with open(folder / f"server-{port}.log", "wb") as log:
        process = subprocess.Popen(
            [str(ROOT / ".venv/bin/millstream"), *arguments], cwd=folder, env=_environment(), stdout=log, stderr=log
        )
    try:
        _wait_until_ready(process, port, Path(log.name))
        yield
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_SECONDS) == 0, Path(log.name).read_text(encoding="utf-8")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        assert time.monotonic() < give_up, f"not ready in time: {log.read_text(encoding='utf-8')}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=1) as reply:
                if reply.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("MILLSTREAM_")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
