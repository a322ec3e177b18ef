"""Turning files, environment and command line into a tree of frozen structs, with every problem listed.

Each source adds leaves to one nested dict, later ones win; `build` converts leaf by leaf, so that one wrong value does
not hide the next. What the sources may contain is read from the struct's own fields.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from ..clock import seconds
from ..errors import Misconfigured

__all__ = ["DURATION", "SECRET", "Reader", "Secret", "redact"]

S = TypeVar("S", bound=msgspec.Struct)

DURATION = "millstream_duration"
SECRET = "millstream_secret"  # noqa: S105 - the name of a mark, not a secret
PREFIX = "MILLSTREAM_"
NOT_SETTINGS = ("CONFIG", "URL", "TOKEN", "LOG_LEVEL", "LOG_FORMAT", "FAILPOINT", "TEST_", "BENCH_")
"""Beginnings of `MILLSTREAM_…` variables that are no settings: where the CLI looks, how telemetry logs, and
what tests use."""

_PASSWORD_IN_URL = re.compile(r"(?<=://)([^:/@\s]*):([^@/\s]*)@")
_TOKEN_IN_URL = re.compile(r"(?<=nats://)[^:/@\s]+@")
"""NATS takes a token where others have a user's name."""
_SECRET_NAME = re.compile(r"password|passwd|secret|token|credential|private|api_?key|signing_?key", re.IGNORECASE)
HIDDEN = "***"


class Secret(str):
    """Text that came from a `file:` reference. It compares and encodes as text, and shows itself as `***`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"'{HIDDEN}'"


class Reader:
    """Collects leaves from several sources, and problems."""

    def __init__(self, tree: type[msgspec.Struct]) -> None:
        self.problems: list[str] = []
        self._known = dict(_leaves(tree, ()))
        """Path → how many names of one's own choosing follow it: none for a leaf."""
        self._free = {path: depth for path, depth in self._known.items() if depth}
        self._tables = {path[:n] for path in self._known for n in range(1, len(path))}
        self._values: dict[tuple[str, ...], tuple[object, str]] = {}

    def add_file(self, path: Path | None) -> None:
        """Read a TOML file; its relative `file:` references are relative to the working directory, as all paths are."""
        if path is None:
            return
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.problems.append(f"{path}: cannot be read ({error.strerror or error})")
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            self.problems.append(f"{path}: no TOML ({error})")
        else:
            self._add_table(content, (), str(path))

    def add_environment(self, env: Mapping[str, str]) -> None:
        """Read `MILLSTREAM_A__B=value`, sorted, so that problems come in a stable order."""
        for name in sorted(env):
            key = name.removeprefix(PREFIX)
            if key == name or key.startswith(NOT_SETTINGS):
                continue
            self._add(tuple(part.lower() for part in key.split("__")), env[name], name)

    def add_overrides(self, overrides: Mapping[str, object]) -> None:
        """Take values by dotted key; None means not given."""
        for key, value in overrides.items():
            if value is not None:
                self._add(tuple(key.split(".")), value, key)

    def build(self, tree: type[S], path: tuple[str, ...] = ()) -> S:
        """The tree; a leaf that cannot be read keeps its default and leaves a problem."""
        fields: dict[str, Any] = {}
        hints = get_type_hints(tree, include_extras=True)
        for name in tree.__struct_fields__:
            here, hint = (*path, name), hints[name]
            if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
                fields[name] = self.build(hint, here)
            elif get_origin(hint) is dict:
                fields[name] = self._free_table(here, get_args(hint)[1])
            elif here in self._values:
                value, source = self._values[here]
                try:
                    fields[name] = _convert(value, hint)
                except (msgspec.ValidationError, Misconfigured, OSError) as error:
                    self.problems.append(f"{source} = {_shown(value, hint)}: {error}")
        return tree(**fields)

    def _free_table(self, path: tuple[str, ...], hint: Any) -> dict[str, Any]:
        """`hint`: of the values, where they have a type; inside tables of tables they are anything."""
        typed = hint is not Any and get_origin(hint) is not dict
        table: dict[str, Any] = {}
        for key, (value, source) in self._values.items():
            if key[: len(path)] != path:
                continue
            at = table
            for part in key[len(path) : -1]:
                at = at.setdefault(part, {})
            try:
                at[key[-1]] = _convert(value, hint) if typed else _resolve(value)
            except (msgspec.ValidationError, Misconfigured, OSError) as error:
                self.problems.append(f"{source} = {_shown(value, hint)}: {error}" if typed else f"{source}: {error}")
        return table

    def _add_table(self, table: Mapping[str, Any], path: tuple[str, ...], source: str) -> None:
        for key, value in table.items():
            here = (*path, key)
            if isinstance(value, dict) and (here in self._tables or self._is_free(here)):
                self._add_table(cast(dict[str, Any], value), here, source)
            else:
                self._add(here, cast(object, value), f"{source}: {'.'.join(here)}")

    def _add(self, path: tuple[str, ...], value: object, source: str) -> None:
        if self._known.get(path) == 0 or self._is_leaf_of_free(path):
            self._values[path] = (value, source)
        elif path in self._tables or self._is_free(path):
            self.problems.append(f"{source}: this is a table; set a key inside it")
        else:
            self.problems.append(f"{source}: no such setting{self._nearest(path)}")

    def _is_free(self, path: tuple[str, ...]) -> bool:
        """Whether it is a table of free names, or lies in one."""
        return any(path[: len(table)] == table for table in self._free)

    def _is_leaf_of_free(self, path: tuple[str, ...]) -> bool:
        return any(
            path[: len(table)] == table and len(path) >= len(table) + depth for table, depth in self._free.items()
        )

    def _nearest(self, path: tuple[str, ...]) -> str:
        known = [".".join(p) for p, depth in self._known.items() if not depth]
        same_leaf = [k for k in known if k.split(".")[-1] == path[-1]]
        near = same_leaf or difflib.get_close_matches(".".join(path), known, 1, 0.6)
        if not near:
            by_leaf = {k.split(".")[-1]: k for k in known}
            near = [by_leaf[leaf] for leaf in difflib.get_close_matches(path[-1], by_leaf, 1, 0.7)]
        return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"


def redact(tree: msgspec.Struct) -> dict[str, Any]:
    """A tree as plain values; what came from a file, passwords in URLs and settings named like a secret are hidden."""
    return {name: _redacted(name, getattr(tree, name)) for name in tree.__struct_fields__}


def _redacted(name: str, value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return redact(value)
    if isinstance(value, dict):
        return {key: _redacted(key, inner) for key, inner in cast(dict[str, Any], value).items()}
    if isinstance(value, list):
        return [_redacted(name, inner) for inner in cast(list[Any], value)]
    if isinstance(value, Secret) or (value and isinstance(value, str) and _SECRET_NAME.search(name)):
        return value if value in ("", HIDDEN) else HIDDEN
    if isinstance(value, str):
        return _TOKEN_IN_URL.sub(f"{HIDDEN}@", _PASSWORD_IN_URL.sub(rf"\1:{HIDDEN}@", value))
    return str(value) if isinstance(value, Path) else value


def _leaves(tree: type[msgspec.Struct], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    """Paths of all leaves; for a table of free names, how many of these make a path: `services.NAME.key` has two."""
    hints = get_type_hints(tree, include_extras=True)
    for name in tree.__struct_fields__:
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            yield from _leaves(hint, (*path, name))
        else:
            yield (*path, name), _free_names(hint)


def _free_names(hint: Any) -> int:
    return 1 + _free_names(get_args(hint)[1]) if get_origin(hint) is dict else 0


def _marks(hint: Any) -> Mapping[str, Any]:
    for extra in get_args(hint)[1:]:
        if isinstance(extra, msgspec.Meta) and extra.extra:
            return extra.extra
    return {}


def _convert(value: object, hint: Any) -> Any:
    marks = _marks(hint)
    if DURATION in marks:
        if isinstance(value, str) and not value.strip().replace(".", "", 1).isdigit():
            return seconds(value.strip())
        return msgspec.convert(value, float, strict=False)
    if SECRET in marks:
        return _resolve(msgspec.convert(value, str))
    if hint is Path:
        return Path(msgspec.convert(value, str)) if not isinstance(value, Path) else value
    if isinstance(value, str):
        text = value.strip()
        if get_origin(hint) is tuple:  # in the environment a list is written with commas
            return msgspec.convert([part.strip() for part in text.split(",") if part.strip()], hint, strict=False)
        return msgspec.convert(text, hint, strict=False)
    return msgspec.convert(value, hint)


def _resolve(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("file:"):
        file = Path(value.removeprefix("file:").removeprefix("//"))
        try:
            return Secret(file.read_text(encoding="utf-8").removesuffix("\n"))
        except OSError as error:
            raise OSError(f"{value} cannot be read ({error.strerror})") from error
    if isinstance(value, list):
        return [_resolve(inner) for inner in cast(list[Any], value)]
    if isinstance(value, dict):
        return {key: _resolve(inner) for key, inner in cast(dict[str, Any], value).items()}
    return value


def _shown(value: object, hint: Any) -> str:
    if SECRET in _marks(hint):
        return HIDDEN
    return json.dumps(value, default=str)
