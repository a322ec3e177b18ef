"""The command line `millstream`: one file per group of commands, each imported only when its command runs.

Exit codes, the same for every command:

    0  done; what was checked holds
    1  problems were found, or the system refused
    2  wrong usage or configuration: nothing was done
    3  nobody answers there

Results go to stdout, as one line of JSON with `--json`; progress, hints and errors go to stderr.
"""

from __future__ import annotations

from .app import main

__all__ = ["main"]
