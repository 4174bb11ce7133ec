"""What the process says on standard error: structlog, for people or for a collector."""

from __future__ import annotations

import logging
import sys

import structlog

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
    renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(colors=False)
    if settings.format == "json":
        shared.append(structlog.processors.format_exc_info)
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
