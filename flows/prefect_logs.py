"""Keeps tracebacks of expected errors, and with them any patient data, out of Prefect's log records."""

from __future__ import annotations

import logging

from flows.logs import debugging

_PREFECT_LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.task_engine", "prefect.flow_engine")


class _NoTraceback(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info is not None and not debugging():
            record.exc_info = None
            record.exc_text = None
        return True


def without_tracebacks() -> None:
    """Drop the traceback (never the message) of Prefect's log records about runs. Repeatable."""
    for name in _PREFECT_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(entry, _NoTraceback) for entry in logger.filters):
            logger.addFilter(_NoTraceback())
