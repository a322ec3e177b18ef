"""The pytest plugin of the conformance suites: only declared skips are skips, and a whole run writes its results.

Register it in the conftest beside your tests:

```python
def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(ConformancePlugin(results=None), "millstream-conformance")
```
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

__all__ = ["FAILED", "PASSED", "SUITES", "ConformancePlugin", "Results", "promises"]

SUITES: dict[str, type[Any]] = {"transport": TransportConformance, "store": StoreConformance}
PASSED = "passed"
FAILED = "failed"


class Results(msgspec.Struct):
    """What one adapter declared, and what became of each promise: passed, or the declaration it was skipped by."""

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
                found.setdefault(name, " ".join(inspect.cleandoc(function.__doc__ or "").split()))
    return found


class _Run:
    """One test class against one suite."""

    def __init__(self, port: str) -> None:
        self.port = port
        self.capabilities: Capabilities | None = None
        self.outcomes: dict[str, str] = {}

    def results(self) -> Results | None:
        """None unless the whole suite ran without a failure."""
        expected = promises(SUITES[self.port])
        if self.capabilities is None or FAILED in self.outcomes.values() or not expected.keys() <= self.outcomes.keys():
            return None
        declared = {name: getattr(self.capabilities, name) for name in self.capabilities.__struct_fields__}
        return Results(self.port, self.capabilities.name, declared, {name: self.outcomes[name] for name in expected})


class ConformancePlugin:
    """results: the folder that gets a file `<port>-<adapter>.json` from every whole run; None writes nothing."""

    def __init__(self, results: Path | None) -> None:
        self._folder = results
        self._runs: dict[type[Any], _Run] = {}

    @pytest.fixture
    def conformance_declares(self, request: pytest.FixtureRequest) -> Callable[[Capabilities], None]:
        """Where a suite hands over what the adapter declares."""
        run = self._run_of(request.node)
        assert run is not None

        def declare(capabilities: Capabilities) -> None:
            run.capabilities = capabilities

        return declare

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """A skip whose reason is no declaration is a failure: an adapter does not choose what it keeps."""
        report = yield
        run = self._run_of(item)
        if run is None:
            return report
        name = getattr(item, "originalname", item.name)
        if report.skipped or hasattr(report, "wasxfail"):
            reason = _reason(report)
            if reason.startswith(DECLARED):
                run.outcomes[name] = reason
            else:
                report.outcome = "failed"
                vars(report).pop("wasxfail", None)  # pytest does not count a report that carries it
                report.longrepr = f"A conformance test is skipped by a declared capability only; here: {reason}"
        if report.failed:
            run.outcomes[name] = FAILED
        elif report.passed and report.when == "call":
            run.outcomes.setdefault(name, PASSED)
        return report

    def pytest_sessionfinish(self) -> None:
        """Write the results, where they differ from those that are there."""
        if self._folder is None:
            return
        for results in filter(None, (run.results() for run in self._runs.values())):
            text = msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n"
            path = self._folder / f"{results.port}-{results.adapter}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != text:
                path.write_bytes(text)

    def _run_of(self, item: pytest.Item) -> _Run | None:
        cls = getattr(item, "cls", None)
        for port, suite in SUITES.items():
            if isinstance(cls, type) and issubclass(cls, suite):
                return self._runs.setdefault(cls, _Run(port))
        return None


def _reason(report: pytest.TestReport) -> str:
    if hasattr(report, "wasxfail"):
        return "it is expected to fail"
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")
