"""A figure, its goal, and whether the goal is met."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

__all__ = ["Figure", "Goal", "median_pair"]


@dataclass(frozen=True)
class Goal:
    """Bounds that must all hold."""

    at_least: float | None = None
    at_most: float | None = None
    ratio_at_least: float | None = None

    def __str__(self) -> str:
        bounds = (("≥ ", self.at_least), ("≤ ", self.at_most), ("ratio ≥ ", self.ratio_at_least))
        return " and ".join(f"{words}{bound:g}" for words, bound in bounds if bound is not None)


@dataclass(frozen=True)
class Figure:
    """One measured value.

    ceiling: what the bare twin reached, in the same unit; None where no bare twin makes sense.
    lower_is_better: times and sizes. details: everything measured, for the results file.
    """

    name: str
    value: float
    unit: str
    ceiling: float | None
    goal: Goal
    details: dict[str, Any] = field(default_factory=dict[str, Any])
    lower_is_better: bool = False

    @property
    def ratio(self) -> float | None:
        """How near to the ceiling: 1 is as good as bare, 0.5 half as good, also for times."""
        if self.ceiling is None or not self.ceiling or not self.value:
            return None
        return self.ceiling / self.value if self.lower_is_better else self.value / self.ceiling

    @property
    def met(self) -> bool:
        """Whether every bound of the goal holds."""
        goal, ratio = self.goal, self.ratio
        return (
            (goal.at_least is None or self.value >= goal.at_least)
            and (goal.at_most is None or self.value <= goal.at_most)
            and (goal.ratio_at_least is None or (ratio is not None and ratio >= goal.ratio_at_least))
        )

    def line(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "name": self.name, "value": _rounded(self.value), "unit": self.unit, "ceiling": _rounded(self.ceiling),
            "ratio": _rounded(self.ratio), "goal": str(self.goal), "met": self.met,
        }  # fmt: skip


def median_pair(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """The medians of values and of ceilings that were measured pair by pair."""
    return median(value for value, _ in pairs), median(ceiling for _, ceiling in pairs)


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    return round(value) if abs(value) >= 1_000 else float(f"{value:.4g}")
