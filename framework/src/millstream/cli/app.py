"""The table of commands, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

from cyclopts import App

from ..errors import MillstreamError, Misconfigured
from .exits import Exit, NotReachable

__all__ = ["build", "main"]

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("up:up", "Run all services in one process."),
    "run": ("up:run", "Run one service in this process."),
    "check": ("check:check", "List everything that is wrong with configuration, engines and declarations."),
    "new": ("new:new", "Write a working service with its test into a new folder."),
    "token": ("token:token", "Print a bearer token for development."),
    "relay": ("relay:relay", "Forward the outbox of an application that is not written with Millstream."),
    "simulate": ("simulate:simulate", "Run scenarios of the deterministic simulator, and find what breaks them."),
    "load": ("load.command:load", "Post real baskets as orders and verify that nothing is lost or doubled."),
    "provision": ("provision:provision", "Create the topics and subscriptions that the services declare."),
    "asyncapi": ("asyncapi:asyncapi", "Print the AsyncAPI 3.0 document of all services."),
    "tail": ("tail:tail", "Follow the messages of a topic."),
    "publish": ("publish:publish", "Publish one event by hand."),
    "lanes": ("lanes:app", "Show what waits, and why."),
    "dlq": ("dlq:app", "List, show, redrive and drop dead letters."),
    "outbox": ("outbox:app", "Show what is committed but not yet published, and free held keys."),
}


def build() -> App:
    """The application. Naming a command imports its file, nothing before that does."""
    from .. import __name__ as package

    app = App(name="millstream", help="Event-driven services that lose nothing.", version=_version)
    for name, (path, about) in COMMANDS.items():
        app.command(f"{package}.cli.{path}", name=name, help=about)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit the process with its code."""
    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command; its exit code. Errors become one line each on stderr."""
    try:
        result = build()(list(arguments), exit_on_error=True, result_action="return_value")
    except Misconfigured as error:
        return _fail(error.problems, Exit.USAGE)
    except NotReachable as error:
        return _fail([str(error)], Exit.NOT_REACHABLE)
    except MillstreamError as error:
        return _fail([str(error)], Exit.PROBLEMS)
    except ExceptionGroup as group:
        return _fail_group(group)
    except BrokenPipeError:
        # The reader of our output has gone, as with `| head`. Python would complain once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except KeyboardInterrupt:
        return 130
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else Exit.USAGE
    return result if isinstance(result, int) else Exit.OK


def _fail(problems: Sequence[str], code: int) -> int:
    for problem in problems:
        sys.stderr.write(f"millstream: {problem}\n")
    return code


def _fail_group(group: ExceptionGroup[Exception]) -> int:
    """Errors of tasks that ran side by side. One that is none of ours is a defect: it is raised with its traceback."""
    ours, others = group.split(MillstreamError)
    if ours is None or others is not None:
        raise group
    leaves = list(_leaves(ours))
    problems = [p for leaf in leaves for p in (leaf.problems if isinstance(leaf, Misconfigured) else (str(leaf),))]
    usage = all(isinstance(leaf, Misconfigured) for leaf in leaves)
    return _fail(list(dict.fromkeys(problems)), Exit.USAGE if usage else Exit.PROBLEMS)


def _leaves(group: ExceptionGroup[MillstreamError]) -> Iterator[MillstreamError]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("millstream")
    except PackageNotFoundError:
        return "unknown (not installed)"
