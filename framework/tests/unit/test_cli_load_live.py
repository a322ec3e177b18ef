"""`millstream load` starts a system of its own, drives every kind of payment through it, and stops it again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
from millstream.cli.load.baskets import Basket, Line


def test_a_system_of_its_own_passes_with_every_method(tmp_path: Path) -> None:
    file = tmp_path / "baskets.jsonl"
    rows = [
        Basket(f"b{n}", f"c{n % 5}", "USD", (Line("p", n % 10, 100 + n), Line("free", 1, 0)), 100 + n)
        for n in range(120)
    ]
    file.write_bytes(b"\n".join(msgspec.json.encode(row) for row in rows))
    methods = "sim_ok=5,sim_declined=1,sim_error_then_ok=1,sim_timeout=1,sim_late=1,sim_twice=1"

    done = subprocess.run(
        [sys.executable, "-m", "millstream", "load", "--baskets", str(file), "--rate", "max", "--methods", methods,
         "--connections", "8", "--json"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=180, env={"TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr

    *_, before_last, last = done.stdout.splitlines()
    verdict = json.loads(last)
    assert list(verdict) == [
        "posted", "accepted", "refused", "confirmed", "failed", "notified", "total_minor", "lost", "doubled",
        "orders_per_s", "latency_ms",
    ]  # fmt: skip
    assert (verdict["posted"], verdict["accepted"], verdict["refused"]) == (120, 108, 12)
    assert (verdict["lost"], verdict["doubled"], verdict["notified"]) == (0, 0, 108)
    assert verdict["confirmed"] + verdict["failed"] == 108
    assert verdict["failed"] > 0
    assert verdict["total_minor"] == sum(row.total for row in rows if not row.wrong_places)
    assert json.loads(before_last)["passed"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["baskets.jsonl"]


def test_a_system_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    file = tmp_path / "baskets.jsonl"
    file.write_bytes(msgspec.json.encode(Basket("b", "c", "USD", (Line("p", 1, 1),), 1)))

    done = subprocess.run(
        [sys.executable, "-m", "millstream", "load", "--baskets", str(file), "--app", "no_such_module:all"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60, env={"TMPDIR": str(tmp_path)},
    )  # fmt: skip

    assert done.returncode == 1
    assert "did not become ready" in done.stderr
    assert "no_such_module" in done.stderr
