"""Processes of the server's commands that start at once: forks of one process that has imported all that a server does.

To import it takes over a second of a processor each time, and the tests start hundreds of them. What is forked runs as
`python -m` would run it: its own arguments, environment, folder and output, and nothing of the tests' process.
"""

from __future__ import annotations

import io
import os
import runpy
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import connection, get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryFile
from typing import Any, TextIO, cast

IMPORTED = (
    *("ledger.api.app", "ledger.api.protocol", "ledger.cli", "ledger.logs", "uvicorn.main", "uvicorn.loops.auto"),
    *("uvloop", "ledger.report.reader", "ledger.report.html", "ledger.report.pdf"),
)


@cache
def _context() -> ForkServerContext:
    context = get_context("forkserver")
    context.set_forkserver_preload([*IMPORTED, __name__])
    return context


def start(command: Sequence[str], folder: Path, env: Mapping[str, str]) -> tuple[ForkServerProcess, TextIO]:
    """Start `python -m` with this module and its arguments: the process, and what it prints on either output."""
    reading, writing = os.pipe()
    try:
        process = _begin(command, folder, env, {1: writing, 2: writing})
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, os.fdopen(reading, encoding="utf-8")


def run(command: Sequence[str], folder: Path, env: Mapping[str, str], *, seconds_max: float) -> CompletedProcess[str]:
    """Run `python -m` with this module and its arguments to its end. Raises TimeoutExpired."""
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        process = _begin(command, folder, env, {1: out.fileno(), 2: err.fileno()})
        process.join(seconds_max)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutExpired(list(command), seconds_max)
        out.seek(0)
        err.seek(0)
        return CompletedProcess(list(command), process.exitcode, out.read(), err.read())


class Piped:
    """A process with pipes to its standard input and output: as much of `subprocess.Popen` as a pool of them uses."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str]) -> None:
        (its_input, jobs), (frames, its_output) = os.pipe(), os.pipe()
        try:
            self._process = _begin(command, Path.cwd(), env, {0: its_input, 1: its_output, 2: 2})
        finally:
            os.close(its_input)
            os.close(its_output)
        self.stdin, self.stdout = os.fdopen(jobs, "wb", buffering=0), os.fdopen(frames, "rb", buffering=0)
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        # Its status can be read once, and several threads ask for it.
        with self._lock:
            return self._process.exitcode

    def kill(self) -> None:
        with self._lock:
            self._process.kill()

    def wait(self) -> int:
        connection.wait([self._process.sentinel])
        code = self.poll()
        assert code is not None
        return code


def _begin(command: Sequence[str], folder: Path, env: Mapping[str, str], files: Mapping[int, int]) -> ForkServerProcess:
    """files: by the descriptor that the process will have, the one that this process has."""
    given = {standard: DupFd(descriptor) for standard, descriptor in files.items()}
    process = _context().Process(target=_become, args=(list(command), str(folder), dict(env), given))
    process.start()
    return process


def _become(command: list[str], folder: str, env: dict[str, str], files: dict[int, Any]) -> None:
    """What a forked process does."""
    for standard, file in files.items():
        descriptor = file.detach()
        os.dup2(descriptor, standard)
        os.close(descriptor)
    if 0 in files:
        sys.stdin = os.fdopen(0, closefd=False)
    for stream in (sys.stdout, sys.stderr):
        cast(io.TextIOWrapper, stream).reconfigure(line_buffering=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = command
    # It may be imported already, with what is here.
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
