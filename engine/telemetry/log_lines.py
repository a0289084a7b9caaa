"""Log lines that are safe to store and read: one line per entry, without addresses, passwords or quoted values.

Every value passes three steps before it is written, as text or as JSON:

| step | does |
|---|---|
| describe | an exception becomes its traceback, without local variables and, if unexpected, without quoted values |
| redact | e-mail addresses and the user part of URLs are replaced |
| escape | control, line-breaking and direction-changing characters are written as codes |

So no value can begin a line of its own, colour a terminal, or show a customer. Warnings and errors of libraries, which
use `logging`, take the same way.
"""

import contextvars
import logging
import math
import os
import re
import sys
import traceback
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Literal, TextIO, cast

import structlog

from engine.errors import CounterpointError

LogStyle = Literal["text", "json"]
LineFields = MutableMapping[str, object]

current_request: contextvars.ContextVar[str] = contextvars.ContextVar("current_request", default="")
"""The id of the request that this task answers; every line that it logs has it as `request_id`."""

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ADDRESS = re.compile(r"[^\s@'\"<>,;:()/=]{1,64}@[\w.-]{1,255}")
_URL_USER = re.compile(r"(?<=://)[^\s/@]{1,512}@")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"|b'[^']*'")
_LONGEST = 2000
"""Characters of one value; a longer one is cut."""


def configure_logs(stream: TextIO, style: LogStyle = "text", *, colors: bool = False) -> None:
    """Write log lines of this process to `stream`: for people, or one JSON object per line."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(sort_keys=False)
        if style == "json"
        else cast("structlog.typing.Processor", _TextRenderer(colors=colors))
    )
    time = structlog.processors.TimeStamper("iso" if style == "json" else "%Y-%m-%d %H:%M:%S", utc=style == "json")
    structlog.configure(
        logger_factory=structlog.PrintLoggerFactory(stream),
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        processors=[
            structlog.processors.add_log_level,
            time,
            _add_ids if style == "json" else _add_request,
            _describe_error,
            _make_safe,
            renderer,
        ],
    )
    logging.basicConfig(handlers=[_LibraryHandler()], level=logging.WARNING, force=True)


def safe_text(text: str) -> str:
    """Text on one line, without addresses and control characters, shortened if it is too long."""
    text = _ADDRESS.sub("<address>", _URL_USER.sub("<user>@", text))
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}… ({len(text):,} characters)"
    return _UNSAFE.sub(_escape, text)


def describe_error(error: BaseException) -> str:
    """The traceback of an error, without local variables; of an unexpected error also without quoted values.

    An expected error (`CounterpointError`) explains itself and is shown whole.
    """
    shown: traceback.TracebackException | None = traceback.TracebackException.from_exception(error)
    chain: list[traceback.TracebackException] = []
    while shown is not None and shown not in chain and len(chain) < 5:
        chain.append(shown)
        shown = shown.__cause__ or (None if shown.__suppress_context__ else shown.__context__)
    parts = []
    for one in reversed(chain):
        frames = "".join(one.stack.format())
        kind = one.exc_type
        text = str(one).strip()
        expected = kind is not None and issubclass(kind, CounterpointError)
        message = safe_text(text if expected else _QUOTED.sub("'…'", text))
        parts.append(f"{frames}{kind.__name__ if kind else 'error'}: {message}")
    return "\n".join(parts)


class _TextRenderer:
    """structlog's lines for people; a traceback is below its line, each of its lines indented."""

    def __init__(self, *, colors: bool) -> None:
        self._render = structlog.dev.ConsoleRenderer(colors=colors)

    def __call__(self, logger: object, method: str, fields: LineFields) -> str:
        below = fields.pop("exception", None)
        line = str(self._render(cast("structlog.typing.WrappedLogger", logger), method, fields))
        return line if below is None else line + "\n" + "\n".join(f"  {part}" for part in str(below).split("\n"))


def _add_request(_: object, __: str, fields: LineFields) -> LineFields:
    """Add the id of the current request, unless the line has one."""
    if request := current_request.get():
        fields.setdefault("request_id", request)
    return fields


def _add_ids(logger: object, method: str, fields: LineFields) -> LineFields:
    """Adds the request, as `_add_request` does, and the process."""
    fields["process"] = fields.get("process", os.getpid())
    return _add_request(logger, method, fields)


def _describe_error(_: object, __: str, fields: LineFields) -> LineFields:
    """Replace `exc_info` with `exception`, its traceback."""
    error = fields.pop("exc_info", None)
    if isinstance(error, tuple):
        error = error[1]
    elif error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        fields["exception"] = describe_error(error)
    return fields


def _make_safe(_: object, __: str, fields: LineFields) -> LineFields:
    """Redact and escape every value; the lines of a traceback stay apart."""
    for name, value in fields.items():
        if name == "exception":
            fields[name] = "\n".join(safe_text(line) for line in str(value).split("\n"))
        else:
            fields[name] = _safe_value(value)
    return fields


def _safe_value(value: object) -> object:
    """The value with all its text made safe; objects other than numbers and containers become text."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value  # JSON has no other numbers
    if isinstance(value, Mapping):
        return {safe_text(str(name)): _safe_value(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_safe_value(one) for one in value]
    return safe_text(str(value))


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


class _LibraryHandler(logging.Handler):
    """Passes libraries' log records on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record under its library's name; an unformattable record does not interrupt the library."""
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 (as `logging` itself: a wrong placeholder fails no caller)
            text = str(record.msg)
        error = record.exc_info[1] if record.exc_info else None
        more = {} if error is None else {"exc_info": error}
        level = min(
            max(record.levelno // 10 * 10, logging.DEBUG), logging.CRITICAL
        )  # structlog knows no levels between
        with suppress(OSError, ValueError):  # the stream may be closed
            structlog.get_logger(record.name).log(level, text, library=record.name, **more)
