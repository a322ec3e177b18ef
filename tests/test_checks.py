"""The checks of scripts/ find what they are there to find."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"millstream_scripts_{name}", SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


architecture = load("check_architecture")
check = load("check")
domains = load("check_domains")
proto = load("proto")


def write(file: Path, text: str = "") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("stated", "holds"), [(100, True), (91, True), (110, True), (89, False), (111, False)])
def test_a_stated_size_may_be_ten_percent_off(tmp_path: Path, stated: int, holds: bool) -> None:
    write(tmp_path / "a.py", "line\n" * 100)
    write(tmp_path / "ARCHITECTURE.md", f"# Layers\n\nRead `a.py` ({stated} lines) first.\n")

    found = architecture.problems(tmp_path)

    assert found == ([] if holds else [f"ARCHITECTURE.md:3: `a.py` has 100 lines, not {stated}"])


def test_a_size_broken_over_two_lines_is_a_claim_too(tmp_path: Path) -> None:
    assert [
        (claim.path, claim.lines) for claim in architecture.claims_in("`a/b.py`\n(1,200 lines), `c.py` (1 line)")
    ] == [
        ("a/b.py", 1200),
        ("c.py", 1),
    ]


def test_a_file_that_does_not_exist_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "ARCHITECTURE.md", "`gone.py` (10 lines)")

    assert architecture.problems(tmp_path) == ["ARCHITECTURE.md:1: `gone.py` does not exist"]


def test_a_missing_document_is_a_problem(tmp_path: Path) -> None:
    assert architecture.main(tmp_path) == 1


def test_a_domain_imports_the_standard_library_contracts_and_itself(tmp_path: Path) -> None:
    orders = tmp_path / "millstream_services" / "orders"
    write(
        orders / "domain" / "order.py",
        "import decimal\nfrom .money import Money\nfrom ...contracts import orders\n"
        "from millstream_services.contracts.orders import OrderPlaced\n",
    )

    assert domains.problems(tmp_path) == []


@pytest.mark.parametrize(
    "line",
    [
        "import msgspec",
        "from millstream import Event",
        "from millstream_services.cart import domain",
        "from ..cart import domain",
        "from . import store",
    ],
)
def test_a_domain_imports_nothing_else(tmp_path: Path, line: str) -> None:
    write(tmp_path / "millstream_services" / "orders" / "domain.py", line)

    assert len(domains.problems(tmp_path)) == 1


def test_every_folder_of_tests_is_a_suite(tmp_path: Path) -> None:
    write(tmp_path / "framework/tests/unit/test_a.py")
    write(tmp_path / "framework/tests/crash/deep/test_b.py")
    write(tmp_path / "framework/tests/conftest.py")
    write(tmp_path / "examples/01_first/test_example.py")
    write(tmp_path / "tests/test_c.py")

    assert [step.name for step in check.suites(tmp_path)] == [
        "tests: framework/tests/crash",
        "tests: framework/tests/unit",
        "tests: examples/01_first",
        "tests: tests",
    ]


def test_generated_code_imports_its_neighbours_where_it_lives(tmp_path: Path) -> None:
    write(
        tmp_path / "millstream/a/v1/a.proto",
        'syntax = "proto3";\npackage millstream.a.v1;\nimport "millstream/b/v1/b.proto";\nmessage A { millstream.b.v1.B b = 1; }',
    )
    write(
        tmp_path / "millstream/b/v1/b.proto",
        'syntax = "proto3";\npackage millstream.b.v1;\nmessage B { string c = 1; }',
    )

    files = proto.generate(tmp_path)

    assert {"__init__.py", "a/__init__.py", "a/v1/__init__.py", "a/v1/a_pb2.py", "a/v1/a_pb2.pyi"} <= files.keys()
    assert "from millstream_services.contracts.gen.b.v1 import b_pb2" in files["a/v1/a_pb2.py"]
    assert "from millstream_services.contracts.gen.b.v1 import b_pb2" in files["a/v1/a_pb2.pyi"]
