"""`millstream new NAME`: a working service with its test, to start from."""

from __future__ import annotations

import keyword
import re
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..errors import Misconfigured
from .options import Json
from .output import print_json, write

__all__ = ["new"]

FILES = {
    "millstream.toml": "millstream.toml.txt",
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    ".gitignore": "gitignore.txt",
    "@PACKAGE@/__init__.py": "init.py.txt",
    "@PACKAGE@/domain.py": "domain.py.txt",
    "@PACKAGE@/events.py": "events.py.txt",
    "@PACKAGE@/service.py": "service.py.txt",
    "@PACKAGE@/services.py": "services.py.txt",
    "@PACKAGE@/sql/0001_orders.sql": "0001_orders.sql.txt",
    "tests/test_orders.py": "test_orders.py.txt",
}
"""Where each file of `scaffold/` goes."""

TAKEN = {"all", "confirm", "ids", "place", "read", "tests", "var", "millstream"}
"""Names that the files themselves use."""


def new(
    name: Annotated[str, Parameter(help="Name of the service: lower-case letters, digits and '-'.")],
    /,
    *,
    into: Annotated[Path | None, Parameter(help="Folder to write into [default: one of that name, here].")] = None,
    json: Json = False,
) -> None:
    """Write a service that runs, with a test that passes: `cd NAME && millstream up`."""
    package = name.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name) or keyword.iskeyword(package) or package in TAKEN:
        raise Misconfigured(
            f"{name!r}: a name begins with a lower-case letter, has letters, digits and '-', and is no word of Python's"
        )
    folder = into or Path(name)
    if folder.exists() and any(folder.iterdir()):
        raise Misconfigured(f"{folder}/ exists and is not empty: choose another name, or --into")
    values = {"@PACKAGE@": package, "@SERVICE@": package, "@NAME@": name, "@VERSION@": _version()}
    written: list[str] = []
    for target, source in FILES.items():
        path = folder / _filled(target, values)
        path.parent.mkdir(parents=True, exist_ok=True)
        template = files("millstream.cli").joinpath("scaffold", source).read_text(encoding="utf-8")
        path.write_text(_filled(template, values), encoding="utf-8")
        written.append(str(path))
    if json:
        print_json({"folder": str(folder), "files": written})
        return
    write(f"{folder}/ holds a service with {len(written)} files. Next:")
    write(f"  cd {folder} && millstream up --reload")
    write("  pytest            (with pytest and pytest-asyncio installed)")


def _filled(text: str, values: dict[str, str]) -> str:
    for placeholder, value in values.items():
        text = text.replace(placeholder, value)
    return text


def _version() -> str:
    try:
        return version("millstream")
    except PackageNotFoundError:
        return "0.1.0"
