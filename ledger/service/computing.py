"""A process that computes certificates, one after another, outside of the process that decides.

It is started as `python -m ledger.service.computing` by `ledger.service.apart`. Both ends are the same program of the
same user, and pass each other pickles in frames: a length and the bytes. An empty frame stops the running computation.
Each job has exactly one answer. The end of standard input ends the process at once, so it does not outlive its parent.
It has a low priority, and is the first to go if memory runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import pickle
import queue
import signal
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal
from uuid import UUID

from ledger.accounting import certificate, deadline
from ledger.errors import LedgerError
from ledger.service.curves import Curves

HEADER: Final = struct.Struct(">Q")
STOP: Final = HEADER.pack(0)
NICENESS: Final = 10
"""The priority of a process that computes costs: those that decide come first."""
OOM_SCORE: Final = b"500"
CURVES_BYTES_MAX: Final = 40 * 2**20
"""The most bytes that the curves which a process keeps may take. The largest are composed again."""

Job = tuple[UUID, Callable[[], Any]]
"""Whose work it is, and the work: a function that can be imported, with arguments that can be pickled."""


Answer = tuple[Literal["done", "raised", "failed"], Any]
"""How a job ended: with a result; with an error of the ledger; with a fault, whose type and place it has."""


def frame(message: Any) -> bytes:
    """Return a message as it is sent."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return HEADER.pack(len(data)) + data


def serve(jobs: BinaryIO, answers: BinaryIO) -> None:
    """Answer each job, until the input ends."""
    waiting: queue.SimpleQueue[tuple[bytes, threading.Event]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(jobs, waiting), daemon=True).start()
    curves = Curves(CURVES_BYTES_MAX)
    with contextlib.suppress(BrokenPipeError):
        while True:
            answers.write(frame(_answer(curves, *waiting.get())))
            answers.flush()
            _give_memory_back()


def _listen(jobs: BinaryIO, waiting: queue.SimpleQueue[tuple[bytes, threading.Event]]) -> None:
    stop = threading.Event()
    while len(header := jobs.read(HEADER.size)) == HEADER.size:
        (size,) = HEADER.unpack(header)
        if size:
            stop = threading.Event()
            waiting.put((jobs.read(size), stop))
        else:
            stop.set()
    os._exit(0)  # the parent process has ended


def _answer(curves: Curves, job: bytes, stop: threading.Event) -> Answer:
    try:
        tenant_id, work = pickle.loads(job)  # noqa: S301 (from the parent process, over a pipe that nobody else has)
        with deadline.until(math.inf, stop), certificate.keeping(curves.of(tenant_id)):
            return "done", work()
    except LedgerError as error:
        return "raised", error
    except Exception as error:  # any fault: the parent process reports it
        # The type and the place, but not the message: it may contain what a caller sent.
        return "failed", f"{''.join(traceback.format_tb(error.__traceback__))}{type(error).__name__}"


def _give_memory_back() -> None:
    """Give the system the memory that the last computation needed and nothing uses now."""
    with contextlib.suppress(OSError, AttributeError):  # not the GNU C library
        ctypes.CDLL(None).malloc_trim(0)


def main() -> None:
    """Serve on standard input and output. All other output goes to standard error."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):  # not on Linux
        Path("/proc/self/oom_score_adj").write_bytes(OOM_SCORE)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
