"""`up --reload`: run the same command in a child process and start it anew when a source file changes.

The child is stopped with SIGTERM, as in production: an edit in mid-request loses nothing. For development only.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from .output import hint

__all__ = ["changed_since", "run_reloading", "snapshot"]

SUFFIXES = (".py", ".sql", ".toml")
SKIPPED = {".venv", "__pycache__", "node_modules", "var"}
INTERVAL_SECONDS = 0.4


def run_reloading(folders: list[Path]) -> int:
    """Run until interrupted; the child's last exit code."""
    command = [sys.executable, "-m", "millstream", *(word for word in sys.argv[1:] if word != "--reload")]
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while True:
        seen = snapshot(folders)
        # A session of its own: the terminal's Ctrl-C reaches this process alone, which passes it on as SIGTERM.
        child = subprocess.Popen(command, start_new_session=True)
        changed: list[Path] = []
        while not stopping and not changed:
            time.sleep(INTERVAL_SECONDS)
            changed = changed_since(seen, folders)
        if child.poll() is None:
            child.terminate()
        code = child.wait()
        if stopping:
            return code
        hint(f"{', '.join(path.name for path in changed[:3])} changed: starting anew")


def snapshot(folders: Iterable[Path]) -> dict[Path, int]:
    """When each source file was last written."""
    found: dict[Path, int] = {}
    for folder in folders:
        for path in _sources(folder):
            try:
                found[path] = path.stat().st_mtime_ns
            except OSError:
                continue  # it went while we looked
    return found


def changed_since(seen: dict[Path, int], folders: Iterable[Path]) -> list[Path]:
    """Files that are new, gone or written since."""
    now = snapshot(folders)
    return sorted(path for path in {*seen, *now} if seen.get(path) != now.get(path))


def _sources(folder: Path) -> Iterable[Path]:
    for path in folder.iterdir():
        if path.name in SKIPPED or path.name.startswith("."):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _sources(path)
        elif path.suffix in SUFFIXES:
            yield path
