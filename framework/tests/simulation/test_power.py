"""The simulated disk: what was synced survives a power cut whole, what was not is kept, lost or torn."""

from __future__ import annotations

from pathlib import Path
from random import Random

import apsw
from millstream.testing.simulation.power import PowerDisk


def opened(path: Path, disk: PowerDisk, synchronous: str) -> apsw.Connection:
    connection = apsw.Connection(str(path), vfs=disk.name)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", synchronous)
    connection.wal_autocheckpoint(0)
    return connection


def after_power_cut(path: Path, synchronous: str, seed: int) -> tuple[int, int]:
    """How many rows were committed before the power failed at a drawn moment, and how many are there afterwards."""
    cut = list[bool]()
    random = Random(seed)
    with PowerDisk(f"disk-{path.name}-{synchronous}-{seed}", lambda: cut.append(True)) as disk:
        connection = opened(path, disk, synchronous)
        connection.execute("CREATE TABLE t (n INTEGER, data TEXT)")
        disk.fail_after(random.randrange(5, 200))
        committed = 0
        while not cut:
            connection.execute("INSERT INTO t VALUES (?, ?)", (committed, "x" * 3000))
            committed += not cut
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.close(True)
        disk.restore(random)
        connection = opened(path, disk, synchronous)
        assert connection.pragma("integrity_check") == "ok"
        found = len(connection.execute("SELECT n FROM t").fetchall())
        connection.close()
    return committed, found


def test_a_commit_that_was_synced_survives_every_power_cut(tmp_path: Path) -> None:
    for seed in range(60):
        committed, found = after_power_cut(tmp_path / f"{seed}.db", "FULL", seed)
        assert committed <= found <= committed + 1, f"seed {seed}"


def test_without_syncs_commits_are_lost(tmp_path: Path) -> None:
    lost = 0
    for seed in range(20):
        try:
            committed, found = after_power_cut(tmp_path / f"{seed}.db", "OFF", seed)
        except apsw.Error:  # not even the table is left
            lost += 1
        else:
            lost += found < committed
    assert lost > 10
