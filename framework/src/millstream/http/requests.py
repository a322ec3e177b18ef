"""One request on its way to its handler: what parameters are filled from."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

from ..caller import Caller
from .problems import Problem

__all__ = ["Address", "Headers", "Incoming"]


class Address(str):
    """The network address that a request came from, as the server saw it (behind a proxy: as the proxy says, where
    the server is told to trust it). A parameter of this type receives it; "" where there is none."""

    __slots__ = ()


class Headers:
    """The request's headers. A parameter of this type receives them; with `bytes`, the raw body, they are what a
    signature over a webhook is checked by."""

    __slots__ = ("_headers",)

    def __init__(self, headers: dict[bytes, bytes]) -> None:
        self._headers = headers

    def get(self, name: str) -> str | None:
        """The value of a header, whatever the case of its name; the last where it came several times."""
        value = self._headers.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")


class Incoming:
    """A request whose head is checked. The body is set once it is read and decoded."""

    __slots__ = ("_query", "body", "caller", "headers", "raw", "scope", "values")

    def __init__(self, scope: Any, headers: dict[bytes, bytes], values: tuple[str, ...], caller: Caller) -> None:
        self.scope = scope
        self.headers = headers
        self.values = values
        self.caller = caller
        self.raw = b""
        self.body: Any = None
        self._query: dict[str, list[str]] | None = None

    def query(self, limit: int) -> dict[str, list[str]]:
        """The query's parameters, each with all its values.

        Raises:
            Problem: 400 for more than `limit`, or text that is not UTF-8.
        """
        if self._query is None:
            try:
                pairs = parse_qsl(
                    self.scope["query_string"].decode("ascii"),
                    keep_blank_values=True,
                    errors="strict",
                    max_num_fields=limit,
                )
            except ValueError:
                raise Problem(400, f"the query is not readable, or has more than {limit} parameters") from None
            self._query = {}
            for name, value in pairs:
                self._query.setdefault(name, []).append(value)
        return self._query

    def address(self) -> Address:
        """Where it came from."""
        client = self.scope.get("client")
        return Address(client[0] if client else "")
