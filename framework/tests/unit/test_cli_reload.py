"""`up --reload` sees what a person edits, and nothing that a running system writes."""

from __future__ import annotations

import os
from pathlib import Path

from millstream.cli.reload import changed_since, snapshot


def test_edits_new_files_and_removals_are_seen(tmp_path: Path) -> None:
    (tmp_path / "shop" / "sql").mkdir(parents=True)
    service, migration = tmp_path / "shop" / "service.py", tmp_path / "shop" / "sql" / "0001_a.sql"
    service.write_text("1")
    migration.write_text("1")
    seen = snapshot([tmp_path])
    assert changed_since(seen, [tmp_path]) == []

    os.utime(service, ns=(1, 1))
    migration.unlink()
    (tmp_path / "millstream.toml").write_text("")

    assert [path.name for path in changed_since(seen, [tmp_path])] == ["millstream.toml", "service.py", "0001_a.sql"]


def test_data_environments_and_caches_are_not_watched(tmp_path: Path) -> None:
    for folder in ("var", ".venv", "__pycache__", ".git"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text("")
    (tmp_path / "orders.db").write_text("")

    assert snapshot([tmp_path]) == {}
