"""What docs/guide/simulation.md shows is what is run here, and it comes to what the page says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from millstream.testing.simulation.campaign import seeds, shrunk

HERE = Path(__file__).parent
PAGE = HERE.parents[2] / "docs" / "guide" / "simulation.md"


@pytest.fixture(scope="module")
def guide() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulation_guide_shop", HERE / "guide_shop.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_shows_the_code_that_is_run() -> None:
    shown = PAGE.read_text().split("# from framework/tests/simulation/guide_shop.py\n")[1].split("```")[0]
    assert shown.strip() in (HERE / "guide_shop.py").read_text()


def test_the_double_effect_is_caught_and_shrinks(guide: ModuleType) -> None:
    failing = next(o for o in seeds(guide.Confirmations, range(100)) if o.violations)
    assert any("was confirmed 2 times" in words or "was confirmed 3 times" in words for words in failing.violations)
    few = shrunk(guide.Confirmations, failing.seed)
    assert few is not None
    assert 1 <= len(few) <= 3


def test_the_test_of_the_page_fails_as_it_says(guide: ModuleType) -> None:
    with pytest.raises(AssertionError, match="seed"):
        guide.test_every_order_is_confirmed_once()


def test_an_effect_with_its_key_holds(guide: ModuleType) -> None:
    for outcome in seeds(guide.CarefulConfirmations, range(12)):
        assert outcome.violations == [], f"seed {outcome.seed}"
