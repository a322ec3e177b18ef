"""Checks that ARCHITECTURE.md tells the truth about sizes.

Every "`path` (N lines)" in it must name a file of this repository, and N must be within 10 % of the real count.
Exit code 0 when all of it holds; else 1, with a line for each claim that does not. `--write` puts the real counts there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TOLERANCE", "Claim", "claims_in", "corrected", "main", "problems"]

TOLERANCE = 0.10
"""How far a written count may be from the real one, as a share of the real one."""

_CLAIM = re.compile(r"`(?P<path>[^`\n]+)`\s*\((?P<lines>\d[\d,]*)\s+lines?\)")


@dataclass(frozen=True)
class Claim:
    """A size the document states: the file, the count, and the line of the document where it says so."""

    path: str
    lines: int
    stated_at: int


def claims_in(text: str) -> Iterator[Claim]:
    """The sizes a document states, in order. A claim may be broken over two lines."""
    for match in _CLAIM.finditer(text):
        stated_at = text.count("\n", 0, match.start()) + 1
        yield Claim(match["path"], int(match["lines"].replace(",", "")), stated_at)


def problems(root: Path) -> list[str]:
    """What is wrong with the sizes in `root/ARCHITECTURE.md`; empty when all hold."""
    document = root / "ARCHITECTURE.md"
    if not document.is_file():
        return [f"{document.name} is missing: it describes the layers and states the size of their files"]
    found: list[str] = []
    for claim in claims_in(document.read_text(encoding="utf-8")):
        where = f"{document.name}:{claim.stated_at}"
        file = root / claim.path
        if not file.is_file():
            found.append(f"{where}: `{claim.path}` does not exist")
            continue
        real = _lines(file)
        if abs(claim.lines - real) > real * TOLERANCE:
            found.append(f"{where}: `{claim.path}` has {real} lines, not {claim.lines}")
    return found


def corrected(root: Path) -> str:
    """The document with the real count of every file that exists."""

    def count(match: re.Match[str]) -> str:
        file = root / match["path"]
        return match[0].replace(f"({match['lines']} ", f"({_lines(file)} ") if file.is_file() else match[0]

    return _CLAIM.sub(count, (root / "ARCHITECTURE.md").read_text(encoding="utf-8"))


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def main(root: Path = Path(__file__).parents[1], *, write: bool = False) -> int:
    """Print every problem; the exit code. write: correct the counts first."""
    if write:
        (root / "ARCHITECTURE.md").write_text(corrected(root), encoding="utf-8")
    found = problems(root)
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(write="--write" in sys.argv[1:]))
