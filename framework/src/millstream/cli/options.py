"""Options that several commands share, and the settings they lead to."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from ..runtime.settings import Settings, load_settings

__all__ = ["Configured", "Json", "Remote", "config_file"]

Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON on one line instead of text.")]

CONFIG = "millstream.toml"


@Parameter(name="*")
@dataclass(frozen=True)
class Configured:
    """Where the settings come from."""

    config: Annotated[Path | None, Parameter(help="Settings file [default: ./millstream.toml, when there is one].")] = (
        None
    )
    data: Annotated[Path | None, Parameter(help="Data folder [default: var].")] = None

    def settings(self, **overrides: object) -> Settings:
        """The settings, with overrides by key, `__` for a dot. Raises `Misconfigured` with every problem."""
        values = {key.replace("__", "."): value for key, value in overrides.items()}
        return load_settings(config_file(self.config), os.environ, {"data": self.data, **values})


@Parameter(name="*")
@dataclass(frozen=True)
class Remote(Configured):
    """Which running system is meant."""

    url: Annotated[
        str | None, Parameter(help="Root address of the running system [default: from the data folder].")
    ] = None
    token: Annotated[str | None, Parameter(help="Operator's bearer token; safer in MILLSTREAM_TOKEN.")] = None


def config_file(given: Path | None) -> Path | None:
    """The file that is named, else `MILLSTREAM_CONFIG`, else `millstream.toml` in the working directory, else none."""
    if given is not None:
        return given
    named = os.environ.get("MILLSTREAM_CONFIG")
    if named:
        return Path(named)
    return Path(CONFIG) if Path(CONFIG).is_file() else None
