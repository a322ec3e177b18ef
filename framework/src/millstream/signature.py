"""Reading what a function asks for: dependencies arrive by parameter type."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

import msgspec

from .errors import Misconfigured

__all__ = ["Parameter", "parameters_of", "where"]

_EMPTY: Any = inspect.Parameter.empty


class Parameter(msgspec.Struct, frozen=True, eq=False):
    """One parameter of a handler, its type resolved."""

    name: str
    type: Any
    default: Any = _EMPTY

    @property
    def required(self) -> bool:
        return self.default is _EMPTY


def where(function: Callable[..., Any]) -> str:
    """`orders/service.py:31 (confirm)`, for messages to people."""
    code = getattr(function, "__code__", None)
    name = getattr(function, "__qualname__", repr(function))
    if code is None:
        return name
    return f"{'/'.join(code.co_filename.split('/')[-2:])}:{code.co_firstlineno} ({name})"


def parameters_of(function: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a coroutine function, in order, with their resolved types.

    Raises:
        Misconfigured: it is no coroutine function, or a parameter has no type or one that cannot be resolved.
    """
    problems: list[str] = []
    if not inspect.iscoroutinefunction(function):
        problems.append(f"{where(function)}: a handler must be `async def`")
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise Misconfigured(
            f"{where(function)}: a type of its parameters cannot be resolved ({error}). "
            "Import it at module level, not under TYPE_CHECKING and not inside a function."
        ) from error
    found: list[Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            problems.append(f"{where(function)}: *{name} cannot be filled; name each parameter")
        elif name not in hints:
            problems.append(f"{where(function)}: parameter {name!r} needs a type; dependencies arrive by type")
        else:
            found.append(Parameter(name, hints[name], parameter.default))
    if problems:
        raise Misconfigured(problems)
    return tuple(found)
