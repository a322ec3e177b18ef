"""The list that every part of the check adds to."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["Finding", "Findings"]

Level = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at. A problem makes the check fail; a warning does not."""

    level: Level
    area: str
    what: str


class Findings:
    """Everything found so far, in order."""

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def ok(self, area: str, what: str) -> None:
        """It is as it should be."""
        self.found.append(Finding("ok", area, what))

    def warn(self, area: str, what: str) -> None:
        """It works, and somebody should know."""
        self.found.append(Finding("warning", area, what))

    def problem(self, area: str, *what: str) -> None:
        """It must change before it can be relied on."""
        self.found.extend(Finding("problem", area, one) for one in what)

    def of(self, level: Level) -> list[Finding]:
        """All of one level."""
        return [finding for finding in self.found if finding.level == level]
