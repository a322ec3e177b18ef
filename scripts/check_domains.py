"""Checks that a service's domain imports the standard library, the published contracts and itself, and nothing else.

The domain is `domain.py` or the package `domain/` of a service. import-linter forbids a list of libraries; this closes
the list. Exit code 0 when all of it holds; else 1, with a line for each import that does not belong.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

__all__ = ["main", "problems"]

PACKAGE = "millstream_services"
CONTRACTS = f"{PACKAGE}.contracts"


def problems(source_root: Path) -> list[str]:
    """The imports that do not belong, as "file:line: what"; `source_root` is the folder that holds the package."""
    found: list[str] = []
    package = source_root / PACKAGE
    for file in sorted([*package.glob("*/domain.py"), *package.glob("*/domain/**/*.py")]):
        parts = file.relative_to(source_root).with_suffix("").parts
        own = ".".join(parts[: parts.index("domain") + 1])
        for line, module in _imports(file, parts):
            if not _belongs(module, own):
                found.append(f"{file}:{line}: a domain may not import {module}")
    return found


def _imports(file: Path, parts: tuple[str, ...]) -> list[tuple[int, str]]:
    package = parts if file.name == "__init__.py" else (*parts[:-1], "")
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def _belongs(module: str, own: str) -> bool:
    if module.partition(".")[0] in sys.stdlib_module_names:
        return True
    return any(module == home or module.startswith(f"{home}.") for home in (own, CONTRACTS))


def main(root: Path = Path(__file__).parents[1]) -> int:
    """Print every problem; the exit code."""
    found = problems(root / "services" / "src")
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
