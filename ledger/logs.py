"""The log of the process: one line for each event, as text for a person or as JSON for a collector.

A line has facts that the ledger chose: ids, codes, numbers. Three things keep a caller's words out of it. Control
characters are escaped, so that nobody can forge a line. What looks like a key, a token or a password in a URL is
blacked out. And of an exception the log has the type and the places, but only that part of its message that `brief`
knows to be free of values: a database's message quotes rows, and a parser's quotes its input.

Nobody waits for a line to be written: a thread does it. Lines are dropped if too many wait; the log has their number.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sqlite3
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final, Literal, TextIO

from ledger.errors import LedgerError

Format = Literal["text", "json"]

SECRET: Final = re.compile(
    r"pb[los]_[\w-]{8,}|eyJ[\w-]{8,}\.[\w.-]+|\b(?i:bearer|basic)\s+[^\s\"',;]+|(?<=://)[^\s/@]+:[^\s@]+(?=@)"
)
"""Keys, sessions, links that sign in, tokens, the value of an Authorization header, and the password of a URL."""
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FRAMES_MAX: Final = 40
CAUSES_MAX: Final = 5
LENGTH_MAX: Final = 4000
WAITING_CHARACTERS_MAX: Final = 4 * 1024 * 1024
"""The most characters of lines that wait to be written; further lines are dropped and counted."""
GATHER_SECONDS: Final = 0.05
"""How long lines are gathered, to be written together."""
FLUSH_SECONDS_MAX: Final = 5.0
"""How long the end of the process waits for somebody to read the rest."""

_noted: ContextVar[dict[str, Any] | None] = ContextVar("noted", default=None)


# --- what is known of the request that is being served ---------------------------------------------------------------


def begin(request_id: str) -> dict[str, Any]:
    """Begin a request: the facts of its log line, to which `note` adds."""
    facts: dict[str, Any] = {"request_id": request_id}
    _noted.set(facts)
    return facts


def note(**facts: Any) -> None:
    """Add facts to the log line of the current request, if there is one."""
    noted = _noted.get()
    if noted is not None:
        noted.update(facts)


def request_id() -> str | None:
    """Return the id of the current request."""
    noted = _noted.get()
    return None if noted is None else str(noted["request_id"])


# --- what may be logged ----------------------------------------------------------------------------------------------


def safe(text: str) -> str:
    """Return a text without secrets, line breaks and other control characters."""
    # Cut afterwards too: half a secret at the end would not look like one.
    return _CONTROL.sub(_escaped, SECRET.sub("***", text[: 2 * LENGTH_MAX])[:LENGTH_MAX])


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape", "surrogatepass").decode()


def brief(error: BaseException) -> str:
    """Return the kind of an error, with that part of its message that cannot quote a value."""
    name = type(error).__name__
    if isinstance(error, LedgerError):
        return f"{name} ({error.code})"
    if isinstance(error, OSError):
        return f"{name}: {error.strerror}" if error.strerror else name
    if isinstance(error, sqlite3.Error):  # names tables and columns, never values
        return f"{name}: {error}"
    if hasattr(error, "sqlstate"):  # psycopg's. Without a state it is about the connection, and names host and database
        return f"{name}: {error}" if error.sqlstate is None else f"{name} ({error.sqlstate}{_constraint(error)})"
    original = getattr(error, "orig", None)  # SQLAlchemy's, around the driver's
    return f"{name}, {brief(original)}" if isinstance(original, BaseException) else name


def _constraint(error: BaseException) -> str:
    name = getattr(getattr(error, "diag", None), "constraint_name", None)
    return f", {name}" if name else ""


def trace(error: BaseException) -> Iterator[str]:
    """Yield an exception and its causes, the first cause first: where each was raised, and its kind."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain and len(chain) < CAUSES_MAX:
        chain.append(cause)
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    for link in reversed(chain):
        for frame in traceback.extract_tb(link.__traceback__)[-FRAMES_MAX:]:
            yield f"{frame.filename}:{frame.lineno} {frame.name}: {frame.line}"
        yield brief(link)


def _message(record: logging.LogRecord) -> str:
    """Return the message, with exceptions among its arguments as `brief` shows them."""
    arguments: Any = record.args
    if isinstance(arguments, tuple):
        arguments = tuple(brief(value) if isinstance(value, BaseException) else value for value in arguments)
    try:
        text = str(record.msg) % arguments if arguments else str(record.msg)
    except (TypeError, ValueError):
        text = str(record.msg)
    return safe(text.strip())


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return the facts of a record: its own, or else the id of the current request."""
    given: Mapping[str, Any] | None = getattr(record, "facts", None)
    if given is None:
        current = request_id()
        return {} if current is None else {"request_id": current}
    return {
        name: safe(value) if isinstance(value, str) else value for name, value in given.items() if value is not None
    }


def _trace_of(record: logging.LogRecord) -> list[str]:
    given: Any = record.exc_info
    error = given[1] if isinstance(given, tuple) else None
    return [] if error is None else [safe(line) for line in trace(error)]


# --- output ----------------------------------------------------------------------------------------------------------


_ENCODE: Final = json.JSONEncoder(default=str).encode
_IN_MESSAGE: Final = frozenset({"method", "route", "status"})
"""Facts that the message of a request's line already has."""


class Text(logging.Formatter):
    """A line for a person: time, level, message, facts. Further lines are indented, so they pass for no event."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        facts = "".join(f" {name}={value}" for name, value in _facts(record).items() if name not in _IN_MESSAGE)
        lines = [f"{clock} {record.levelname:7} {_message(record)}{facts}", *_trace_of(record)]
        return "\n    ".join(lines)


class Json(logging.Formatter):
    """A line for a collector: an object of time, level, logger, message and the facts."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {
            "time": moment.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
            **_facts(record),
        }
        if lines := _trace_of(record):
            line["trace"] = lines
        return _ENCODE(line)


class Patient(logging.Handler):
    """Writes lines in a thread, so that a reader of the log who is slow, or stops reading, holds nobody up."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._waiting: list[str] = []
        self._waiting_characters = self._dropped = 0
        self._queue, self._writing = threading.Lock(), threading.Lock()
        self._woken, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve, name="ledger-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a line, or count it if too much waits."""
        try:
            line = self.format(record)
        except Exception:  # as every handler of Python's does
            self.handleError(record)
            return
        with self._queue:
            if self._waiting_characters + len(line) > WAITING_CHARACTERS_MAX:
                self._dropped += 1
                return
            self._waiting.append(line)
            self._waiting_characters += len(line)
        self._woken.set()

    def flush(self) -> None:
        """Write what waits, unless nobody reads it."""
        if self._writing.acquire(timeout=FLUSH_SECONDS_MAX):
            try:
                self._write()
            finally:
                self._writing.release()

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._closing.set()
        self._woken.set()
        self.flush()
        super().close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            self._woken.wait()
            self._closing.wait(GATHER_SECONDS)
            self._woken.clear()
            with self._writing:
                self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody can read it any more
            while lines := self._taken():
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()

    def _taken(self) -> list[str]:
        with self._queue:
            lines, self._waiting = self._waiting, []
            dropped, self._dropped = self._dropped, 0
            self._waiting_characters = 0
        if dropped:
            facts = __name__, logging.WARNING, __file__, 0, "%d lines of the log were dropped: it is read too slowly"
            lines.append(self.format(logging.LogRecord(*facts, (dropped,), None)))
        return lines


def configuration(form: Format) -> dict[str, Any]:
    """Return a configuration for `logging.config`: everything from the process and its libraries, on standard error."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": {"text": "ledger.logs.Text", "json": "ledger.logs.Json"}[form]}},
        "handlers": {"stderr": {"class": "ledger.logs.Patient", "formatter": "line", "stream": "ext://sys.stderr"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "loggers": {"ledger": {"level": "INFO"}, "uvicorn": {"level": "INFO"}, "uvicorn.error": {"level": "INFO"}},
    }
