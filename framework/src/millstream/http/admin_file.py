"""`admin.json`: how a running process tells the CLI on this machine where it answers, and with which token.

Only its owner may read it. The runtime writes it when it is ready and removes it when it stops; a file that a killed
process left behind leads to an address where nobody answers, which the CLI says.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ..errors import Misconfigured

__all__ = ["AdminFile", "read_admin_file", "remove_admin_file", "write_admin_file"]


class AdminFile(msgspec.Struct, frozen=True):
    """Where a process answers: `url` is its root, such as `http://127.0.0.1:8080`. services: whose work it does."""

    url: str
    token: str
    pid: int
    services: tuple[str, ...] = ()


def write_admin_file(path: Path, content: AdminFile) -> None:
    """Replace the file in one step; nobody else can read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{content.pid}.tmp")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(content))
    temporary.replace(path)


def read_admin_file(path: Path) -> AdminFile | None:
    """The file's content; None when there is none.

    Raises:
        Misconfigured: it cannot be read or is not such a file.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=AdminFile)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"{path}: cannot be read ({error}); `millstream up` writes it anew") from error


def remove_admin_file(path: Path, pid: int) -> None:
    """Remove the file if this process wrote it."""
    try:
        content = read_admin_file(path)
    except Misconfigured:
        return
    if content is not None and content.pid == pid:
        path.unlink(missing_ok=True)
