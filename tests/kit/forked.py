"""Processes of the server's commands that start at once: forks of one process that has imported all that a server does.

To import it takes over a second of a processor each time, and the tests start hundreds of them. What is forked runs as
`python -m` would run it: its own arguments, environment, folder and output, and nothing of the tests' process.
"""

from __future__ import annotations

import io
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from pathlib import Path
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryFile
from typing import Any, TextIO, cast

IMPORTED = (
    *("ledger.api.app", "ledger.api.protocol", "ledger.cli", "ledger.logs", "uvicorn.main", "uvicorn.loops.auto"),
    "uvloop",
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
        process = _begin(command, folder, env, (writing, writing))
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return process, os.fdopen(reading, encoding="utf-8")


def run(command: Sequence[str], folder: Path, env: Mapping[str, str], *, seconds_max: float) -> CompletedProcess[str]:
    """Run `python -m` with this module and its arguments to its end. Raises TimeoutExpired."""
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        process = _begin(command, folder, env, (out.fileno(), err.fileno()))
        process.join(seconds_max)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutExpired(list(command), seconds_max)
        out.seek(0)
        err.seek(0)
        return CompletedProcess(list(command), process.exitcode, out.read(), err.read())


def _begin(command: Sequence[str], folder: Path, env: Mapping[str, str], outputs: tuple[int, int]) -> ForkServerProcess:
    given = tuple(DupFd(descriptor) for descriptor in outputs)
    process = _context().Process(target=_become, args=(list(command), str(folder), dict(env), given))
    process.start()
    return process


def _become(command: list[str], folder: str, env: dict[str, str], outputs: tuple[Any, Any]) -> None:
    """What a forked process does."""
    for standard, output in enumerate(outputs, start=1):
        descriptor = output.detach()
        os.dup2(descriptor, standard)
        os.close(descriptor)
    for stream in (sys.stdout, sys.stderr):
        cast(io.TextIOWrapper, stream).reconfigure(line_buffering=True)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = command
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)
