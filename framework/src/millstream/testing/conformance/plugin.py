"""Pytest hooks of the conformance suites: only declared skips are skips, and a complete run writes its results.

Name it in `pytest_plugins` of the conftest beside your tests. With `--conformance-results FOLDER` (or the ini option
`conformance_results`) every adapter whose whole suite ran gets a file `<port>-<name>.json` there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from .capabilities import DECLARED, Capabilities
from .store import StoreConformance
from .transport import TransportConformance

__all__ = ["SUITES", "Results", "promises", "pytest_addoption", "pytest_runtest_makereport", "pytest_sessionfinish"]

SUITES: dict[str, type[Any]] = {"transport": TransportConformance, "store": StoreConformance}

PASSED = "passed"


class Results(msgspec.Struct):
    """What one adapter declared, and what became of each promise: `passed`, or the declaration it was skipped by."""

    port: str
    adapter: str
    capabilities: dict[str, Any]
    promises: dict[str, str]


def promises(suite: type[Any]) -> dict[str, str]:
    """The tests of a suite, in the order they are written, with the promise that the docstring states."""
    found: dict[str, str] = {}
    for base in suite.__mro__:
        for name, function in vars(base).items():
            if name.startswith("test_"):
                found.setdefault(name, inspect.cleandoc(function.__doc__ or "").replace("\n", " "))
    return found


class _Run:
    """One test class against one suite."""

    def __init__(self, port: str) -> None:
        self.port = port
        self.capabilities: Capabilities | None = None
        self.outcomes: dict[str, str] = {}


_RUNS = pytest.StashKey[dict[type[Any], _Run]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where results go."""
    parser.addoption("--conformance-results", default=None, help="folder for the results of conformance suites")
    parser.addini("conformance_results", "folder for the results of conformance suites", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Begin with no results."""
    config.stash[_RUNS] = {}


def _run_of(item: pytest.Item) -> _Run | None:
    cls = getattr(item, "cls", None)
    for port, suite in SUITES.items():
        if isinstance(cls, type) and issubclass(cls, suite):
            return item.config.stash[_RUNS].setdefault(cls, _Run(port))
    return None


@pytest.fixture
def conformance_declares(request: pytest.FixtureRequest) -> Callable[[Capabilities], None]:
    """Where a suite hands over what the adapter declares."""
    run = _run_of(request.node)
    assert run is not None

    def declare(capabilities: Capabilities) -> None:
        run.capabilities = capabilities

    return declare


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip whose reason is no declaration is a failure: an adapter does not choose what it keeps."""
    report = yield
    run = _run_of(item)
    if run is None:
        return report
    name = getattr(item, "originalname", item.name)
    if report.skipped:
        reason = "expected to fail" if hasattr(report, "wasxfail") else _reason(report)
        if reason.startswith(DECLARED):
            run.outcomes[name] = reason
        else:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: a conformance test is skipped by a declared capability only, not: {reason}"
    if report.failed:
        run.outcomes[name] = "failed"
    elif report.passed and report.when == "call":
        run.outcomes.setdefault(name, PASSED)
    return report


def _reason(report: pytest.TestReport) -> str:
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the results of every suite that ran whole and without a failure."""
    folder = session.config.getoption("--conformance-results") or session.config.getini("conformance_results")
    if not folder:
        return
    for run in session.config.stash[_RUNS].values():
        expected = promises(SUITES[run.port])
        complete = set(run.outcomes) >= set(expected) and "failed" not in run.outcomes.values()
        if run.capabilities is None or not complete:
            continue
        results = Results(
            run.port,
            run.capabilities.name,
            {name: getattr(run.capabilities, name) for name in run.capabilities.__struct_fields__},
            {name: run.outcomes[name] for name in expected},
        )
        text = msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"
        path = session.config.rootpath / folder / f"{run.port}-{run.capabilities.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_bytes() != text:
            _ = Path(path).write_bytes(text)
