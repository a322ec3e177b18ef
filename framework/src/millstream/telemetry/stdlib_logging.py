"""Brings what other libraries log through Python's `logging` (uvicorn's lines among it) into the one format.

The name of the logger becomes the event, the text becomes `message`, and what was given as `extra` becomes fields.
`logging` is one per process, so this is done by an explicit call and undone by its counterpart, never by importing.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable

from .logs import Logs

__all__ = ["LogAdoption"]

_OWN_HANDLERS = ("uvicorn", "uvicorn.error", "uvicorn.access")
"""Loggers that bring handlers of their own: each line would come out twice."""

_RECORD_FIELDS = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message", "asctime", "taskName", "color_message",
}  # fmt: skip
_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))


class LogAdoption:
    """Takes over the root logger, and gives it back as it was."""

    def __init__(self, logs: Logs, level: str) -> None:
        self._handler = _Handler(logs)
        self._level = level
        self._before: list[tuple[logging.Logger, list[logging.Handler], int, bool]] = []

    def start(self, loggers: Iterable[str] = _OWN_HANDLERS) -> None:
        """From now on every record comes out as a line of ours. A second call does nothing."""
        if self._before:
            return
        root = logging.getLogger()
        self._remember(root)
        root.handlers = [self._handler]
        root.setLevel(self._level.upper())
        for name in loggers:
            logger = logging.getLogger(name)
            self._remember(logger)
            logger.handlers = []
            logger.propagate = True
        logging.captureWarnings(True)

    def stop(self) -> None:
        """Put everything back."""
        if not self._before:
            return
        logging.captureWarnings(False)
        for logger, handlers, level, propagate in self._before:
            logger.handlers = handlers
            logger.setLevel(level)
            logger.propagate = propagate
        self._before.clear()

    def _remember(self, logger: logging.Logger) -> None:
        self._before.append((logger, logger.handlers, logger.level, logger.propagate))


class _Handler(logging.Handler):
    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - arguments that do not fit their template are the caller's mistake, not a crash
            message = str(record.msg)
        fields: dict[str, object] = {"message": message}
        fields.update((name, value) for name, value in vars(record).items() if name not in _RECORD_FIELDS)
        if record.exc_info and record.exc_info[1] is not None:
            fields["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        level = next((name for rank, name in _LEVELS if record.levelno >= rank), "debug")
        self._logs.log(level, record.name, fields)
