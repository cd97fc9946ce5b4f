"""Structured logs: one canonical line per event; UIDs and digests only, never a patient value."""

import logging
import select
import sys
from datetime import UTC, datetime

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

# Tracebacks without the frames' variables, which may hold a data set.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def configure(level: str = "info", *, json: bool | None = None) -> None:
    """Set up logging to stderr; JSON unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    processors: list[Processor] = (
        [_json_line]
        if as_json
        else [_stamp, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        # Each line is one write, so that those of processes that share stderr do not mix.
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer)
        if as_json
        else structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    # Libraries may print what they received; only their warnings are let through, and of pydicom and
    # pynetdicom, whose warnings quote values, none.
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    for quoting in ("pydicom", "pynetdicom"):
        logging.getLogger(quoting).setLevel(logging.CRITICAL)


def _stamp(_logger: WrappedLogger, level: str, line: EventDict) -> EventDict:
    line["level"] = level
    line["timestamp"] = datetime.now(UTC).isoformat()
    return line


def _json_line(logger: WrappedLogger, level: str, line: EventDict) -> bytes:
    """Render a line: a receiver writes one for each instance, so each step of it counts."""
    if "exc_info" in line:
        line = _TRACEBACKS(logger, level, line)
    return orjson.dumps(_stamp(logger, level, line), default=repr)


def get_logger(component: str) -> FilteringBoundLogger:
    """Return the logger of one component."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


def write_lines(logger: FilteringBoundLogger, lines: bytes) -> None:
    """Log lines of level `info` that native code rendered, as a logger's own would be: JSON objects, a line each."""
    if not lines or not logger.is_enabled_for(logging.INFO):
        return
    if structlog.get_config()["processors"] != [_json_line]:
        for line in map(orjson.loads, lines.splitlines()):
            own = ("component", "level", "timestamp")
            logger.info(line.pop("event"), **{name: value for name, value in line.items() if name not in own})
        return
    while lines:
        # As many whole lines as are written at once, so that those of processes that share stderr do not mix.
        end = lines.rfind(b"\n", 0, select.PIPE_BUF) + 1 or lines.find(b"\n") + 1
        sys.stderr.buffer.write(lines[:end])
        sys.stderr.buffer.flush()
        lines = lines[end:]
