"""The documents say what the code says: settings, rules, examples, links."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
import pytest
from millstream.clock import seconds
from millstream.postgresql.database import _OWN as DATABASE_OPTIONS
from millstream.runtime.settings import Settings
from millstream.transports.kafka import _Options
from millstream.transports.nats import NatsOptions
from millstream.transports.postgresql import PostgresqlLogOptions
from millstream.transports.rabbitmq import RabbitmqOptions
from millstream.transports.redis import RedisOptions

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guide"
WRITTEN = [ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
EXCERPT = re.compile(r"^```python\n# from (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PYTHON = re.compile(r"^```python$", re.MULTILINE)
SETTING = re.compile(r"^\| `([a-z_.]+)` \| `([^`]+)` \| \S", re.MULTILINE)
OPTIONS = re.compile(r"^\| `(\w+)`( store| log)? \| default \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)
OPTION_ROW = re.compile(r"^\| (`[a-z_`, ]+`) \| (?:`([^`]*)`|none) \| \S", re.MULTILINE)
RULE = re.compile(r"^\| ([LTRCF]\d+) \|.*\|([^|]*)\|$", re.MULTILINE)
RULE_TEST = re.compile(r"^\s*(?:async )?def test_([ltrcf]\d+)_", re.MULTILINE)
DURATION_KEYS = {"drain_delay", "grace", "retention", "batch_time", "lease", "inbox_retention"}


def defaults(tree: msgspec.Struct, path: str = "") -> Iterator[tuple[str, Any]]:
    for name in get_type_hints(type(tree)):
        value = getattr(tree, name)
        if isinstance(value, msgspec.Struct):
            yield from defaults(value, f"{path}{name}.")
        elif not isinstance(value, dict):
            yield f"{path}{name}", value


def as_written(key: str, value: Any) -> object:
    """A default as a person writes it; durations in seconds."""
    if value is None:
        return "none"
    if key.rpartition(".")[2] in DURATION_KEYS:
        return float(value)
    return msgspec.json.encode(str(value) if isinstance(value, Path) else value).decode()


def test_the_configuration_page_has_every_setting_with_its_default() -> None:
    page = (GUIDE / "configuration.md").read_text(encoding="utf-8")
    written = {
        key: seconds(default.strip('"')) if key.rpartition(".")[2] in DURATION_KEYS else default
        for key, default in SETTING.findall(page)
    }
    assert written == {key: as_written(key, value) for key, value in defaults(Settings())}


def test_the_engines_page_has_every_option_of_every_engine() -> None:
    tls = {"tls_ca", "tls_cert", "tls_key", "tls"}
    options = {
        "nats": {*NatsOptions.__struct_fields__, *tls},
        "kafka": {*_Options.__struct_fields__},
        "rabbitmq": {*RabbitmqOptions.__struct_fields__, *tls},
        "redis": {*RedisOptions.__struct_fields__},
        "postgresql log": {*PostgresqlLogOptions.__struct_fields__},
        "postgresql store": {*DATABASE_OPTIONS},
    }
    numbers = {name: getattr(RabbitmqOptions(), name) for name in ("segment_bytes", "replicas", "prefetch")}
    written: dict[str, set[str]] = {}
    for engine, part, rows in OPTIONS.findall((GUIDE / "engines.md").read_text(encoding="utf-8")):
        found = OPTION_ROW.findall(rows)
        assert len(found) == rows.count("\n"), f"a row of {engine}{part} is not written as option, default, meaning"
        written[engine + part] = {name.strip("` ") for names, _ in found for name in names.split(",")}
        if engine == "rabbitmq":
            assert numbers.items() <= {name.strip("`"): int(d) for name, d in found if d.isdecimal()}.items()
    assert written == options


def test_the_settings_file_of_the_repository_shows_defaults() -> None:
    from millstream.runtime.settings import load_settings

    assert load_settings(ROOT / "millstream.toml") == Settings()


def test_the_rules_table_names_every_rule_and_the_files_that_test_it() -> None:
    tested: dict[str, set[str]] = defaultdict(set)
    for file in (ROOT / "framework" / "tests").rglob("test_*.py"):
        for rule in RULE_TEST.findall(file.read_text(encoding="utf-8")):
            tested[rule.upper()].add(file.name)
    written = dict(RULE.findall((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")))
    counts = {"L": 4, "T": 6, "R": 4, "C": 11, "F": 5}
    assert set(written) == {f"{letter}{n}" for letter, count in counts.items() for n in range(1, count + 1)}
    for rule, cell in written.items():
        named = set(re.findall(r"`(test_\w+\.py)`", cell))
        assert cell.strip(), f"{rule} is tested nowhere"
        assert tested[rule] <= named, f"{rule} is tested in {tested[rule]}"
        assert all(any((ROOT / "framework" / "tests").rglob(file)) for file in named), rule


def test_the_tour_names_every_file_of_the_kernel() -> None:
    tour = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    kernel = ROOT / "framework" / "src" / "millstream" / "delivery"
    files = [file for file in sorted(kernel.rglob("*.*")) if file.suffix in (".py", ".sql")]
    missing = [
        file.name
        for file in files
        if file.name != "__init__.py" and f"delivery/{file.relative_to(kernel)}`" not in tour
    ]
    assert not missing


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert [link for link in LINK.findall(text) if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("page", sorted(GUIDE.glob("*.md")), ids=lambda path: path.name)
def test_the_code_of_the_guide_is_that_of_the_examples(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    excerpts = EXCERPT.findall(text)
    assert len(excerpts) == len(PYTHON.findall(text)), "every block says which example it is from"
    for file, excerpt in excerpts:
        assert excerpt in (ROOT / file).read_text(encoding="utf-8"), f"{file} does not have\n{excerpt}"
