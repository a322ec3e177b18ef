"""The suites' plugin: a skip needs a declaration, and only a whole run without a failure writes results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from millstream.testing.conformance.plugin import SUITES, Results, promises

CONFTEST = """
from pathlib import Path
from millstream.testing.conformance.plugin import ConformancePlugin

def pytest_configure(config):
    config.pluginmanager.register(ConformancePlugin(Path(__file__).parent / "results"), "conformance")
"""

ADAPTER = """
import pytest
from millstream.testing.conformance.transport import TransportConformance
from millstream.transports.memory import MemoryTransport

class TestAdapter(TransportConformance):
    @pytest.fixture
    def make(self):
        return lambda: MemoryTransport(keep_records=0)
"""


def run_suite(folder: Path, more: str = "", *arguments: str) -> tuple[int, str]:
    """Run the transport suite against the memory transport in a pytest of its own."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_adapter.py").write_text(ADAPTER + more)
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    command = (sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", *arguments)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_whole_run_writes_what_became_of_every_promise(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path)
    assert code == 0, output
    results = msgspec.json.decode((tmp_path / "results" / "transport-memory.json").read_bytes(), type=Results)
    assert list(results.promises) == list(promises(SUITES["transport"]))
    assert results.promises["test_a_restart_keeps_everything"] == "declared: survives_restart=false"
    assert results.promises["test_no_wake_up_is_lost"] == "passed"
    assert results.capabilities["name"] == "memory"


SKIPS = [
    'pytest.skip("no time")',
    'pytest.skip("broken on this engine, see the tracker")',
    'pytest.xfail("we know")',
    'pytest.importorskip("no_such_module")',
]


@pytest.mark.parametrize("how", SKIPS)
def test_any_other_skip_fails_the_suite(tmp_path: Path, how: str) -> None:
    more = f"""
    async def test_no_wake_up_is_lost(self, log, topic):
        {how}
"""
    code, output = run_suite(tmp_path, more, "-k", "wake_up")
    assert code == 1, output
    assert "FAILED test_adapter.py::TestAdapter::test_no_wake_up_is_lost" in output


@pytest.mark.parametrize("mark", ["skip", 'skipif(True, reason="slow")', "xfail"])
def test_a_mark_does_not_get_around_it(tmp_path: Path, mark: str) -> None:
    more = f"""
    @pytest.mark.{mark}
    async def test_no_wake_up_is_lost(self, log, topic):
        raise AssertionError
"""
    code, output = run_suite(tmp_path, more, "-k", "wake_up")
    assert code == 1, output
    assert "A conformance" in output


@pytest.mark.parametrize("how", ["raise AssertionError", SKIPS[0]])
def test_a_run_with_a_failure_writes_nothing(tmp_path: Path, how: str) -> None:
    more = f"\n    async def test_no_wake_up_is_lost(self, log, topic):\n        import pytest; {how}\n"
    code, output = run_suite(tmp_path, more)
    assert code == 1, output
    assert not (tmp_path / "results").exists()


def test_a_part_of_the_suite_writes_nothing(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, "", "-k", "wake_up or capabilities")
    assert code == 0, output
    assert not (tmp_path / "results").exists()


def test_a_promise_taken_out_of_the_suite_writes_nothing(tmp_path: Path) -> None:
    code, output = run_suite(tmp_path, "\n    test_no_wake_up_is_lost = None\n")
    assert code == 0, output
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("port", SUITES)
def test_every_test_states_its_promise(port: str) -> None:
    for name, promise in promises(SUITES[port]).items():
        assert promise.endswith("."), f"{port} {name}: the docstring states the promise"
