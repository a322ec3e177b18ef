"""What a confirmed record survives: by how many copies of a topic there are, and who confirms.

A broker confirms from its page cache, which outlives its process and not its machine. So a power cut is survived by the copies
on other machines, or where the broker writes through before it confirms (`flush.messages=1`).
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["Copies", "copies", "too_weak"]

_NOT_FLUSHED: Final = str(2**63 - 1)


class Copies(NamedTuple):
    """Of each record of one topic."""

    replication: int
    min_insync: int
    unclean: bool
    flush: bool


def copies(replication: int, settings: dict[str, str], flush: str) -> Copies:
    """From the settings of a topic, or of a broker, where the setting that writes through has another name."""
    return Copies(
        replication,
        int(settings.get("min.insync.replicas", "1")),
        settings.get("unclean.leader.election.enable") == "true",
        settings.get(flush, _NOT_FLUSHED) == "1",
    )


def too_weak(found: Copies, what: str) -> str:
    """Which setting of it loses a confirmed record when one machine loses its power; empty when none does."""
    needs: list[str] = []
    if found.flush and not found.unclean:
        return ""
    if found.replication < 2:
        needs.append(f"replication factor is {found.replication}, it needs 3 (or flush.messages=1: ?flush=true)")
    if found.min_insync < 2:
        needs.append(f"min.insync.replicas is {found.min_insync}, it needs 2")
    if found.unclean:
        needs.append("unclean.leader.election.enable is true, it needs false")
    if not needs:
        return ""
    return f"{what}: a broker confirms from its page cache, which a power cut empties; {'; '.join(needs)}"
