"""The processes that make reports: a bounded number, started on demand, ended when nobody reads their report.

A pool belongs to one event loop. A process that finished a report waits a while for the next one, because starting one
takes a second of processor time. A process whose report is abandoned is ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Self

from ledger.errors import Internal, Overloaded
from ledger.report import process
from ledger.report.forms import Form
from ledger.report.reader import Extent

IDLE_MAX: Final = 1
"""How many idle processes are kept."""
IDLE_SECONDS: Final = 300.0
WAIT_SECONDS_MAX: Final = 5.0
"""How long a report waits for a place. Most are made in less."""
RETRY_AFTER_SECONDS: Final = 5

log = logging.getLogger(__name__)


class Pool:
    """Make reports of one database, at most `at_once` at the same time."""

    def __init__(self, database_url: str, *, at_once: int) -> None:
        self._url, self._places = database_url, asyncio.Semaphore(at_once)
        self._idle: list[Maker] = []
        self._busy: set[Maker] = set()
        self._ending: set[asyncio.Task[int]] = set()
        self._retirement: asyncio.TimerHandle | None = None

    @property
    def processes(self) -> int:
        """Return the number of reports that are being made."""
        return len(self._busy) + len(self._idle)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Take one of the places for reports that are made at the same time, after who waits already. Raises
        Overloaded if none is free within some seconds."""
        try:
            async with asyncio.timeout(WAIT_SECONDS_MAX):
                await self._places.acquire()
        except TimeoutError:
            raise Overloaded(
                "Too many reports are being made at the moment. Nothing was made; try again later.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from None
        try:
            yield
        finally:
            self._places.release()

    async def pieces(self, extent: Extent, form: Form) -> AsyncGenerator[bytes]:
        """Yield a report in pieces, while it is made. A slow reader makes the process wait; a reader that leaves ends
        it. Raises Overloaded and Internal."""
        maker = await self._taken()
        is_whole = False
        try:
            reader = maker.frames
            maker.give(process.job(self._url, extent, form))
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

    async def _taken(self) -> Maker:
        while self._idle:
            maker = self._idle.pop()
            if maker.is_alive:
                self._busy.add(maker)
                return maker
            self._end(maker)
        starting = asyncio.ensure_future(Maker.start())
        try:
            maker = await asyncio.shield(starting)
        except asyncio.CancelledError:
            self._end(await starting)  # a start that is broken off would leave a process that nobody knows
            raise
        self._busy.add(maker)
        return maker

    def _given_back(self, maker: Maker, *, is_whole: bool) -> None:
        self._busy.discard(maker)
        if is_whole and maker.is_alive and len(self._idle) < IDLE_MAX:
            self._idle.append(maker)
            if self._retirement is not None:
                self._retirement.cancel()
            self._retirement = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire)
        else:
            self._end(maker)

    def _end(self, maker: Maker) -> None:
        maker.kill()
        ending = asyncio.ensure_future(maker.ended())
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


class Maker:
    """A process that makes reports. It belongs to one event loop, which does not wait for it."""

    def __init__(
        self,
        started: subprocess.Popen[bytes],
        jobs: asyncio.WriteTransport,
        answers: asyncio.ReadTransport,
        frames: asyncio.StreamReader,
    ) -> None:
        self._process, self._jobs, self._answers, self.frames = started, jobs, answers, frames

    @classmethod
    async def start(cls) -> Self:
        """Start a process: in a thread, because the event loop's own way stops the loop until the other program runs,
        which takes longer the more memory the server has and the busier the machine is."""
        started = await asyncio.to_thread(start)
        loop, frames = asyncio.get_running_loop(), asyncio.StreamReader(limit=process.FRAME_BYTES_MAX)
        try:
            jobs, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, started.stdin)
            answers, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(frames), started.stdout)
        except BaseException:
            started.kill()
            raise
        return cls(started, jobs, answers, frames)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def give(self, job: bytes) -> None:
        """Send a job. `frames` has what becomes of it."""
        self._jobs.write(job)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()

    async def ended(self) -> int:
        """Close the pipes, wait for the end of the process, and return its status."""
        self._jobs.close()
        self._answers.close()
        return await asyncio.to_thread(self._process.wait)


def start() -> subprocess.Popen[bytes]:
    """Start a process that makes reports."""
    # The process does not need the secrets in the server's settings.
    env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return subprocess.Popen(
        (sys.executable, "-P", "-m", process.__name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        start_new_session=True,  # the server gets the terminal's signals, and ends this process
    )


def _demand_end(kind: bytes, data: bytes) -> None:
    """Raise the error of a report that was not completed."""
    if kind == process.UNAVAILABLE:
        raise Overloaded("The database did not answer in time. The report was not made; try again later.")
    if kind != process.ENDED:
        log.error("a report could not be made:\n%s", data.decode(errors="replace"))
        raise Internal()
