"""Logs as lines of JSON on stderr."""

import json
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

_REQUESTS = "headstart.server.requests"
_LEVELS = {
    "headstart.server": logging.INFO,
    "uvicorn.error": logging.WARNING,
    "asyncio": logging.WARNING,
    # It warns of every form that is damaged, which the response tells.
    "python_multipart": logging.ERROR,
}


class _Lines(logging.Formatter):
    """A record as one line of JSON; what is passed as ``extra={"facts": {...}}`` becomes keys of it."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        line = {"time": moment.isoformat(timespec="milliseconds"), "level": record.levelname.lower()}
        line |= {"event": record.getMessage()} | getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return json.dumps(line, default=str)


@contextmanager
def logging_lines(*, requests: bool) -> Iterator[None]:
    """Log as lines of JSON, each request too where ``requests`` says so; as it was before, afterwards."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines())
    loggers = {name: logging.getLogger(name) for name in (*_LEVELS, _REQUESTS)}
    before = [(logger.level, logger.propagate) for logger in loggers.values()]
    for name, level in _LEVELS.items():
        loggers[name].addHandler(handler)
        loggers[name].propagate = False
        loggers[name].setLevel(level)
    loggers[_REQUESTS].setLevel(logging.INFO if requests else logging.WARNING)
    try:
        yield
    finally:
        for logger, (level, propagate) in zip(loggers.values(), before, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
