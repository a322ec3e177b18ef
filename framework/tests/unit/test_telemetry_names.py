"""The table of names is complete, well formed, and what the documentation and the code say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from millstream.telemetry.names import METRICS, SPANS

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "framework" / "src" / "millstream"
METRIC_CALLS = {"count": "counter", "observe": "histogram", "gauge": "gauge"}
SPAN_CALLS = {"span", "linked_span"}


def literals(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(method, name) of each call in a module whose first argument is one of our names."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
            and node.args[0].value.startswith("millstream")
        ):
            yield node.func.attr, node.args[0].value


def unknown_names(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for method, name in literals(tree):
        if method in METRIC_CALLS and (name not in METRICS or METRICS[name].kind != METRIC_CALLS[method]):
            found.append(name)
        if method in SPAN_CALLS and name not in SPANS:
            found.append(name)
    return found


@pytest.mark.parametrize("file", sorted(SOURCE.rglob("*.py")), ids=lambda file: str(file.relative_to(SOURCE)))
def test_every_name_the_code_writes_is_declared(file: Path) -> None:
    assert unknown_names(ast.parse(file.read_text(encoding="utf-8"))) == []


def test_an_undeclared_name_in_the_code_is_found() -> None:
    wrong = (
        'i.count("millstream_nothing_total", ()); i.gauge("millstream_handler_seconds", (), f); i.span("millstream.x")'
    )
    assert unknown_names(ast.parse(wrong)) == ["millstream_nothing_total", "millstream_handler_seconds", "millstream.x"]


@pytest.mark.parametrize("metric", METRICS.values(), ids=lambda metric: metric.name)
def test_a_metric_is_named_by_the_rules_of_prometheus(metric) -> None:
    assert re.fullmatch(r"millstream_[a-z_]+", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert (metric.kind == "histogram") == bool(metric.bounds)
    assert list(metric.bounds) == sorted(set(metric.bounds))
    assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)
    assert metric.meaning.endswith((".", "4xx."))
    if metric.unit == "seconds":
        assert metric.name.endswith("_seconds")


def test_no_metric_has_the_name_of_another_without_its_suffix() -> None:
    families = [name.removesuffix("_total") for name in METRICS]
    assert len(set(families)) == len(families)


@pytest.mark.parametrize("span", SPANS.values(), ids=lambda span: span.name)
def test_the_title_of_a_span_uses_its_own_attributes(span) -> None:
    fields = {field for field, _ in span.attributes}
    assert set(re.findall(r"\{(\w+)\}", span.title)) <= fields


def test_the_documentation_is_what_the_table_generates() -> None:
    script = ROOT / "scripts" / "generate_telemetry_doc.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
