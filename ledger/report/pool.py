"""The processes that make reports: a bounded number, started on demand, ended when nobody reads their report.

A pool belongs to one event loop. A process that finished a report waits a while for the next one, because starting one
takes a second of processor time. A process whose report is abandoned is ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Final

from ledger.errors import Internal, Overloaded
from ledger.report import process
from ledger.report.forms import Form
from ledger.report.reader import Extent

IDLE_MAX: Final = 1
"""How many idle processes are kept."""
IDLE_SECONDS: Final = 300.0
RETRY_AFTER_SECONDS: Final = 5

log = logging.getLogger(__name__)


class Pool:
    """Make reports of one database, at most `at_once` at the same time."""

    def __init__(self, database_url: str, *, at_once: int) -> None:
        self._url, self._free = database_url, at_once
        self._idle: list[asyncio.subprocess.Process] = []
        self._busy: set[asyncio.subprocess.Process] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._retirement: asyncio.TimerHandle | None = None

    @property
    def processes(self) -> int:
        """The number of reports that are being made."""
        return len(self._busy) + len(self._idle)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Reserve one of the reports that are made at the same time. Raises Overloaded."""
        if self._free <= 0:
            raise Overloaded(
                "Too many reports are being made at the moment. Nothing was made; try again later.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def pieces(self, extent: Extent, form: Form) -> AsyncGenerator[bytes]:
        """Yield a report in pieces, while it is made. A slow reader makes the process wait; a reader that leaves ends
        it. Raises Overloaded and Internal."""
        maker = await self._taken()
        is_whole = False
        try:
            reader, writer = maker.stdout, maker.stdin
            if reader is None or writer is None:
                raise Internal()
            writer.write(process.job(self._url, extent, form))
            while True:
                kind, size = process.HEADER.unpack(await reader.readexactly(process.HEADER.size))
                data = await reader.readexactly(size)
                if kind != process.DATA:
                    break
                yield data
            is_whole = True
            _demand_end(kind, data)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            log.error("a process that made a report ended before it had made it")
            raise Internal() from error
        finally:
            self._given_back(maker, is_whole=is_whole)

    async def _taken(self) -> asyncio.subprocess.Process:
        while self._idle:
            maker = self._idle.pop()
            if maker.returncode is None:
                self._busy.add(maker)
                return maker
        # The process does not need the secrets in the server's settings.
        env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", process.__name__),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=env,
                start_new_session=True,  # the server gets the terminal's signals, and ends this process
            )
        )
        try:
            maker = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._end(await starting)  # a start that is broken off would leave a process that nobody knows
            raise
        self._busy.add(maker)
        return maker

    def _given_back(self, maker: asyncio.subprocess.Process, *, is_whole: bool) -> None:
        self._busy.discard(maker)
        if is_whole and maker.returncode is None and len(self._idle) < IDLE_MAX:
            self._idle.append(maker)
            if self._retirement is not None:
                self._retirement.cancel()
            self._retirement = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire)
        else:
            self._end(maker)

    def _end(self, maker: asyncio.subprocess.Process) -> None:
        if maker.returncode is None:
            maker.kill()
        ending = asyncio.ensure_future(_ended(maker))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def _retire(self) -> None:
        while self._idle:
            self._end(self._idle.pop())

    async def close(self) -> None:
        """End every process, and wait until they have ended."""
        if self._retirement is not None:
            self._retirement.cancel()
        self._retire()
        for maker in self._busy:
            self._end(maker)
        await asyncio.gather(*self._ending)


async def _ended(maker: asyncio.subprocess.Process) -> None:
    """Waits for the end of a process. It is known to asyncio once its pipes are read to their ends, and not before."""
    if maker.stdin is not None:
        maker.stdin.close()
    while maker.stdout is not None and await maker.stdout.read(process.FRAME_BYTES_MAX):
        pass
    await maker.wait()


def _demand_end(kind: bytes, data: bytes) -> None:
    """Raise the error of a report that was not completed."""
    if kind == process.UNAVAILABLE:
        raise Overloaded("The database did not answer in time. The report was not made; try again later.")
    if kind != process.ENDED:
        log.error("a report could not be made:\n%s", data.decode(errors="replace"))
        raise Internal()
