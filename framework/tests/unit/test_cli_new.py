"""`millstream new`: what it writes runs, and its test passes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from millstream.cli.app import run


def test_the_scaffold_s_own_tests_pass_and_it_passes_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["new", "tea-shop"]) == 0

    folder = tmp_path / "tea-shop"
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "3 passed" in tests.stdout
    check = subprocess.run(
        [sys.executable, "-m", "millstream", "check"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_nothing_of_the_template_is_left_and_it_is_clean(tmp_path: Path) -> None:
    assert run(["new", "shop", "--into", str(tmp_path / "x"), "--json"]) == 0

    written = [path for path in (tmp_path / "x").rglob("*") if path.is_file()]
    assert len(written) == 11
    for path in written:
        assert not any(mark in path.read_text() for mark in ("@NAME@", "@PACKAGE@", "@SERVICE@", "@VERSION@")), path
    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "E,F,I,UP", "--ignore", "E501", str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ruff.returncode == 0, ruff.stdout + ruff.stderr


def test_it_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "kept").write_text("mine")

    assert run(["new", "shop", "--into", str(tmp_path)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("name", ["Shop", "1shop", "class", "a b", "../x", "", "millstream", "all"])
def test_a_name_that_is_no_package_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert run(["new", name]) == 2
    assert list(tmp_path.iterdir()) == []
