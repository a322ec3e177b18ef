"""A disk that loses what was written and not synced, when the power fails: in the middle of a commit, too.

It is a VFS below SQLite: files lie where they always do, and beside each is remembered what of it a sync has made durable.
When the power fails, every write since then is kept, lost or torn at a sector, as a seed decides, and nothing that the dying
machine still does reaches the disk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, final

import apsw  # noqa: TID251 - what is simulated lies below SQLite

__all__ = ["PowerDisk"]

SECTOR = 512
SHARED_MEMORY = "-shm"


class _Image:
    """What of a file is durable, and what was done to it since."""

    __slots__ = ("durable", "since")

    def __init__(self, durable: bytes) -> None:
        self.durable = bytearray(durable)
        self.since: list[tuple[int, bytes | None]] = []
        """Writes by offset; None: the file was cut to that length."""

    def sync(self) -> None:
        for offset, data in self.since:
            _apply(self.durable, offset, data)
        self.since.clear()

    def after_power_loss(self, random: Random) -> bytes:
        left = bytearray(self.durable)
        for offset, data in self.since:
            kept = random.randrange(3)
            if kept == 0:
                continue
            torn = kept == 1 and data is not None
            _apply(left, offset, data[: random.randrange(len(data) // SECTOR + 1) * SECTOR] if torn and data else data)
        return bytes(left)


def _apply(to: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del to[offset:]
        return
    if len(to) < offset:
        to.extend(bytes(offset - len(to)))
    to[offset : offset + len(data)] = data


@final
class PowerDisk(apsw.VFS):
    """Give its `name` to a store. Use it by `with`; files that existed before are durable as they are.

    fails: called once, in the middle of what is being written, when the power fails.
    """

    def __init__(self, name: str, fails: Callable[[], object]) -> None:
        super().__init__(name, "unix")
        self.name = name
        self.off = False
        """The power is off: nothing reaches the disk."""
        self.operations = 0
        """Writes and syncs so far."""
        self._fails = fails
        self._fail_at = 0
        self._images: dict[str, _Image] = {}

    def fail_after(self, operations: int) -> None:
        """Let the power fail in front of the write or sync that comes so many after the next."""
        self._fail_at = self.operations + 1 + operations

    def restore(self, random: Random) -> None:
        """The power is back: files are as it left them. Nobody may have one open."""
        self._fail_at = 0
        for name, image in self._images.items():
            left = image.after_power_loss(random)
            Path(name).write_bytes(left)
            image.durable, image.since = bytearray(left), []
            if name.endswith("-wal"):
                Path(name.removesuffix("-wal") + SHARED_MEMORY).unlink(missing_ok=True)
        self.off = False

    # -- what SQLite asks for ---------------------------------------------------------------------------------------

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's names
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - as above
        if not self.off:
            self._images.pop(filename, None)
            super().xDelete(filename, syncdir)

    def image(self, name: str) -> _Image:
        """Of a file that is opened."""
        if name not in self._images:
            path = Path(name)
            self._images[name] = _Image(path.read_bytes() if path.exists() else b"")
        return self._images[name]

    def reached(self) -> bool:
        """Whether an operation reaches the disk; the one that the power fails at does not."""
        if self.off:
            return False
        self.operations += 1
        if self.operations == self._fail_at:
            self.off = True
            self._fails()
            return False
        return True

    def __enter__(self) -> PowerDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


@final
class _File(apsw.VFSFile):
    def __init__(self, disk: PowerDisk, name: Any, flags: list[int]) -> None:
        super().__init__("unix", name, flags)
        self._disk = disk
        filename = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._image = disk.image(filename) if filename is not None else _Image(b"")

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - as above
        if self._disk.reached():
            self._image.since.append((offset, bytes(data)))
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - as above
        if self._disk.reached():
            self._image.since.append((newsize, None))
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - as above
        if self._disk.reached():
            self._image.sync()
            super().xSync(flags)
