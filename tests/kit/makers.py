"""Processes that make reports, forked from one that has imported all that they need.

The ledger starts `python -m ledger.report.process` for each pool, which takes a second of a processor, and nearly every
test that reads a report has a pool of its own. What is forked runs the same module. In
`tests/report/test_report_processes.py` they are started as the ledger starts them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from ledger.report import process
from tests.kit import forked


class Maker:
    """As much of `asyncio.subprocess.Process` as the pool uses."""

    def __init__(self, made: ForkServerProcess, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self._made, self.stdin, self.stdout = made, stdin, stdout

    @property
    def returncode(self) -> int | None:
        return self._made.exitcode

    def kill(self) -> None:
        self._made.kill()

    async def wait(self) -> int | None:
        await asyncio.to_thread(self._made.join)
        return self._made.exitcode


AS_IT_IS = asyncio.create_subprocess_exec


async def _forked(*command: str, **rest: Any) -> Any:
    """In place of `asyncio.create_subprocess_exec`."""
    if command[-2:] != ("-m", process.__name__):
        return await AS_IT_IS(*command, **rest)
    asked, answered = os.pipe(), os.pipe()
    try:
        made = forked.begin([process.__name__], Path.cwd(), rest["env"], (answered[1], 2), stdin=asked[0])
    finally:
        os.close(asked[0])
        os.close(answered[1])
    loop = asyncio.get_running_loop()
    stdout = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdout), os.fdopen(answered[0], "rb"))
    writing, protocol = await loop.connect_write_pipe(
        lambda: asyncio.streams.FlowControlMixin(loop), os.fdopen(asked[1], "wb")
    )
    return Maker(made, asyncio.StreamWriter(writing, protocol, None, loop), stdout)


@contextmanager
def at_hand() -> Iterator[None]:
    """Have pools fork their processes."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(asyncio, "create_subprocess_exec", _forked)
        yield
