"""What the process says on standard error: structlog, for people or for a collector.

A traceback, also of what nobody caught, is told without the texts of foreign errors: they may quote
a patient.
"""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from types import TracebackType
from typing import Any, TextIO

import structlog

from prescreen.errors import trace_of
from prescreen.settings import Log

#: Libraries whose warnings are enough.
QUIET = ("PIL", "apscheduler", "alembic", "sqlalchemy", "highdicom")
#: Their lines carry what stands in a data set, or what a peer sends, unfiltered.
SILENT = ("pydicom", "pynetdicom")


def configure(settings: Log) -> None:
    """Send all logging through structlog to standard error, in the form the settings ask for."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(
        colors=False, exception_formatter=_write_trace
    )
    if settings.format == "json":
        shared.append(structlog.processors.ExceptionRenderer(_trace))
        renderer = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.showwarning = _warned
    sys.excepthook = _uncaught
    threading.excepthook = lambda thread: _uncaught(
        thread.exc_type, thread.exc_value, thread.exc_traceback
    )
    sys.unraisablehook = lambda lost: _uncaught(lost.exc_type, lost.exc_value, lost.exc_traceback)


def _warned(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """What the interpreter would print with the warning's text: pydicom's quote what was sent."""
    logging.getLogger(__name__).debug("%s in %s", category.__name__, filename)


def _trace(exc_info: Any) -> str:
    return trace_of(exc_info[1])


def _write_trace(stream: TextIO, exc_info: Any) -> None:
    stream.write(_trace(exc_info))


def _uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    """What the interpreter would print with the error's text."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(__name__).critical(
        "not caught: %s", kind.__name__ if error is None else trace_of(error)
    )
