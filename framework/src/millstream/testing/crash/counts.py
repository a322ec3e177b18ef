"""What a long run has tried, for whoever adds it up: `scripts/proof.py` names a file, and suites append to it."""

from __future__ import annotations

import json
import os
from pathlib import Path

__all__ = ["count"]

COUNTS = "MILLSTREAM_PROOF_COUNTS"


def count(**tried: float) -> None:
    """Append a line of numbers to the file that `MILLSTREAM_PROOF_COUNTS` names; nothing when it names none."""
    name = os.environ.get(COUNTS)
    if name:
        with Path(name).open("a") as file:
            file.write(json.dumps(tried) + "\n")
