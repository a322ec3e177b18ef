"""docs/capabilities.md says what the suites found."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture
def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate_capabilities", ROOT / "scripts/generate_capabilities.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_results_say(generator: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert generator.main(["--check"]) == 0, capsys.readouterr().out


def test_results_that_lack_a_promise_are_out_of_date(generator: Any) -> None:
    found = generator.read_results(generator.RESULTS)
    assert generator.problems(found) == []
    del found[0].promises["test_capabilities_are_declared"]
    found[1].promises["test_of_yesterday"] = "passed"
    first, second = generator.problems(found)
    assert "test_capabilities_are_declared was never run" in first
    assert "test_of_yesterday is no promise any more" in second
    assert generator.problems([]) != []


def test_a_changed_outcome_changes_the_page(generator: Any) -> None:
    found = generator.read_results(generator.RESULTS)
    before = generator.page(found)
    found[0].promises["test_capabilities_are_declared"] = "declared: survives_restart=false"
    assert generator.page(found) != before
