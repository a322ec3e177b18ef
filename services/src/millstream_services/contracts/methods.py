"""Payment methods that the shipped providers know. Orders are refused at the door when they name another."""

from __future__ import annotations

__all__ = ["METHODS", "SIMULATED"]

SIMULATED = (
    "sim_ok",
    "sim_declined",
    "sim_error_then_ok",
    "sim_timeout",
    "sim_late",
    "sim_twice",
    "sim_never",
)
"""The built-in provider that moves no money: each method is one way in which a provider behaves."""

METHODS = frozenset(SIMULATED)
