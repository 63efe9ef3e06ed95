"""A process that makes reports, one after another, outside of the process that decides.

It is started as `python -m ledger.report.process`. A job is a line of JSON on standard input. The report goes to
standard output in frames: a kind, a length and the bytes. A full pipe makes it wait. The end of standard input ends
it at once, so it does not outlive its parent. It has the lowest priority, and opens the database read-only.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Final
from uuid import UUID

from ledger.report import forms, reader
from ledger.report.forms import Form
from ledger.report.reader import Extent, JournalEnd
from ledger.report.source import Question
from ledger.store import Store, engine_for, failure_kind

HEADER: Final = struct.Struct(">cI")
DATA, ENDED, UNAVAILABLE, FAILED = b"d", b"z", b"u", b"f"
"""Kinds of frames: a piece; the end; the database did not answer; an error and its place."""
FRAME_BYTES_MAX: Final = 64 * 1024
NICENESS: Final = 5
"""The priority of a process that makes reports: the process that decides comes first."""


# --- jobs, written and read by both sides ----------------------------------------------------------------------------


def job(url: str, extent: Extent, form: Form) -> bytes:
    """Return a job as a line. The database's URL has a password: nobody else can read the pipe."""
    return json.dumps({"url": url, "form": form, "extent": asdict(extent)}, default=str).encode() + b"\n"


def _extent(facts: dict[str, Any]) -> Extent:
    question = facts["question"]
    restricted = question["restricted_to"]
    return Extent(
        Question(
            **{
                **question,
                "tenant_id": UUID(question["tenant_id"]),
                "restricted_to": None if restricted is None else tuple(restricted),
            }
        ),
        tuple(_end(end) for end in facts["datasets"]),
        None if facts["tenant"] is None else _end(facts["tenant"]),
    )


def _end(facts: dict[str, Any]) -> JournalEnd:
    dataset_id = facts["dataset_id"]
    return JournalEnd(**{**facts, "dataset_id": None if dataset_id is None else UUID(dataset_id)})


# --- making them -----------------------------------------------------------------------------------------------------


def _leave_missing_folder() -> None:
    """Change to the root folder if the working directory is gone, which a library reads."""
    try:
        Path.cwd()
    except FileNotFoundError:
        os.chdir("/")


class _Maker:
    """Make the reports of one database."""

    def __init__(self) -> None:
        self._url: str | None = None
        self._store: Store | None = None

    def frames(self, line: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the frames of a job."""
        try:
            asked = json.loads(line)
            _leave_missing_folder()
            report = reader.report(self._opened(asked["url"]), _extent(asked["extent"]))
            for piece in forms.pieces(report, asked["form"]):
                for start in range(0, len(piece), FRAME_BYTES_MAX):
                    yield DATA, piece[start : start + FRAME_BYTES_MAX]
        except Exception as error:  # the parent process reports it
            if failure_kind(error) in ("unavailable", "retry", "damaged"):
                yield UNAVAILABLE, b""
            else:
                # The type and the place, but not the message: it may contain what a caller sent.
                places = "".join(traceback.format_tb(error.__traceback__))
                yield FAILED, f"{places}{type(error).__name__}".encode()[-FRAME_BYTES_MAX:]
        else:
            yield ENDED, b""

    def _opened(self, url: str) -> Store:
        if self._store is None or self._url != url:
            self._url, self._store = url, Store(engine_for(url, pool_size=2, is_read_only=True))
        return self._store


def serve(jobs: BinaryIO, frames: BinaryIO) -> None:
    """Make a report for each line, until the input ends."""
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        for line in iter(jobs.readline, b""):
            lines.put(line)
        os._exit(0)  # the parent process has ended, or does not want the rest

    threading.Thread(target=listen, daemon=True).start()
    maker = _Maker()
    with contextlib.suppress(BrokenPipeError):
        while True:
            for kind, data in maker.frames(lines.get()):
                frames.write(HEADER.pack(kind, len(data)) + data)
                frames.flush()


def main() -> None:
    """Serve on standard input and output. All other output goes to standard error."""
    os.nice(NICENESS)
    with contextlib.suppress(OSError):  # a Linux that gives each session as much time as any other
        Path("/proc/self/autogroup").write_text(str(NICENESS))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    frames = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, frames)


if __name__ == "__main__":
    main()
