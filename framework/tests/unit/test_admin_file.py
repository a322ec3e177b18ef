"""`admin.json`: for its owner's eyes, replaced in one step, removed only by the process that wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest
from millstream import Misconfigured
from millstream.http.admin_file import AdminFile, read_admin_file, remove_admin_file, write_admin_file

MINE = AdminFile("http://127.0.0.1:1", "token", 7)


def test_only_the_owner_can_read_it_also_where_it_replaces_an_open_one(tmp_path: Path) -> None:
    path = tmp_path / "var" / "admin.json"
    path.parent.mkdir()
    path.write_text("{}")
    path.chmod(0o644)

    write_admin_file(path, MINE)

    assert path.stat().st_mode & 0o777 == 0o600
    assert read_admin_file(path) == MINE
    assert [file.name for file in path.parent.iterdir()] == ["admin.json"]


def test_a_missing_file_is_none_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert read_admin_file(tmp_path / "admin.json") is None
    (tmp_path / "admin.json").write_text("{")
    with pytest.raises(Misconfigured, match=r"admin\.json: cannot be read"):
        read_admin_file(tmp_path / "admin.json")


def test_another_process_s_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.json"
    write_admin_file(path, MINE)

    remove_admin_file(path, 8)
    assert path.exists()
    remove_admin_file(path, 7)
    assert not path.exists()
    remove_admin_file(path, 7)
