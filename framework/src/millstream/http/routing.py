"""Finding the endpoint of a path: a dictionary for fixed paths, one pattern each for the others.

A fixed segment wins over a parameter, from left to right. Parameters stand for one non-empty segment.
"""

from __future__ import annotations

import re
from typing import Generic, TypeVar

from ..errors import Misconfigured

__all__ = ["RouteTable", "names_in"]

T = TypeVar("T")
_PARAMETER = re.compile(r"\{([^{}]*)\}")


def names_in(path: str) -> tuple[str, ...]:
    """The parameters of a path, in order."""
    return tuple(_PARAMETER.findall(path))


class RouteTable(Generic[T]):
    """Paths with a target for each method."""

    def __init__(self) -> None:
        self._fixed: dict[str, dict[str, T]] = {}
        self._shapes: dict[str, dict[str, T]] = {}
        self._patterns: dict[int, list[tuple[list[bool], re.Pattern[str], dict[str, T]]]] = {}

    def add(self, method: str, path: str, target: T) -> None:
        """Add a target.

        Raises:
            Misconfigured: method and path are taken, or a parameter is not a whole segment.
        """
        for segment in path.split("/"):
            if ("{" in segment or "}" in segment) and not (
                segment[:1] == "{" and segment[-1:] == "}" and segment[1:-1].isidentifier()
            ):
                raise Misconfigured(
                    f"{method} {path}: a parameter is a whole segment, for instance /orders/{{order_id}}"
                )
        shape = _PARAMETER.sub("{}", path)
        if "{" not in path:
            methods = self._fixed.setdefault(path, {})
        elif shape in self._shapes:
            methods = self._shapes[shape]
        else:
            methods = self._shapes[shape] = {}
            self._index(shape, methods)
        if method in methods:
            raise Misconfigured(f"{method} {path}: two routes serve it")
        methods[method] = target

    def _index(self, shape: str, methods: dict[str, T]) -> None:
        segments = shape.split("/")
        pattern = re.compile("/".join("([^/]+)" if s == "{}" else re.escape(s) for s in segments))
        found = self._patterns.setdefault(len(segments) - 1, [])
        found.append(([s == "{}" for s in segments], pattern, methods))
        found.sort(key=lambda entry: entry[0])  # False, a fixed segment, comes before True

    def find(self, path: str) -> tuple[dict[str, T], tuple[str, ...]] | None:
        """The targets by method, and the parameters' values in order; None where nothing has this path."""
        methods = self._fixed.get(path)
        if methods is not None:
            return methods, ()
        for _, pattern, methods in self._patterns.get(path.count("/"), ()):
            match = pattern.fullmatch(path)
            if match is not None:
                return methods, match.groups()
        return None
