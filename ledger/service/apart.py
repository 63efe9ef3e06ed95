"""The processes that compute certificates: started on demand, kept warm for a while, and ended with the server.

A thread that has its turn hands its work to a process and waits. So the number of processes is bounded by the number of
threads, and the order in which tenants get them is that of `turns`. Work is stopped when its deadline passes or nobody
waits for it any more; a process that does not stop soon is killed. A process keeps the curves that it composed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import select
import subprocess
import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import IO, Final, TypeVar
from uuid import UUID

from ledger.accounting import deadline
from ledger.errors import Internal
from ledger.service import computing
from ledger.service.computing import Answer

KEPT_SECONDS: Final = 300.0
"""How long a process is kept that has nothing to compute. Starting one takes half a second of processor time."""
LOOK_SECONDS: Final = 0.05
"""How often a thread that waits looks whether the work is still wanted."""
STOP_SECONDS_MAX: Final = 1.0
"""How long a process that was told to stop may go on before it is killed."""
_ONE_THREAD: Final = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}

T = TypeVar("T")
log = logging.getLogger(__name__)


class Apart:
    """Runs work in processes. Any thread may call it. kept_max: how many idle processes are kept."""

    def __init__(self, *, kept_max: int) -> None:
        self._kept_max = kept_max
        self._lock = threading.Lock()
        self._idle: list[_Computer] = []
        self._busy: set[_Computer] = set()
        self._retirement: threading.Timer | None = None
        self._is_closed = False

    @property
    def processes(self) -> int:
        """Return how many processes there are."""
        with self._lock:
            return len(self._idle) + len(self._busy)

    def run(self, tenant_id: UUID, work: Callable[[], T]) -> T:
        """Return the result of the work, which is computed in a process; `deadline.check` ends the wait and the work.

        work: can be pickled, and so can its result. Raises the LedgerError that it raises, Internal for any other, and
        what `deadline.check` raises.
        """
        computer = self._taken(tenant_id)
        try:
            kind, value = computer.answer(tenant_id, work)
        finally:
            self._give_back(computer)
        if kind == "raised":
            raise value
        if kind == "failed":
            log.error("a certificate could not be computed:\n%s", value)
            raise Internal()
        result: T = value
        return result

    def _taken(self, tenant_id: UUID) -> _Computer:
        """Return a process: the one that computed for the tenant last, another one, or a new one."""
        with self._lock:
            for dead in [one for one in self._idle if not one.is_alive]:
                self._idle.remove(dead)
                dead.end()
            alive = self._idle
            own = [one for one in alive if one.tenant_id == tenant_id]
            if alive:
                computer = (own or alive)[-1]
                alive.remove(computer)
                self._busy.add(computer)
                return computer
        computer = _Computer()  # not in the lock: starting one takes a while
        with self._lock:
            self._busy.add(computer)
        return computer

    def _give_back(self, computer: _Computer) -> None:
        with self._lock:
            self._busy.discard(computer)
            if computer.is_free and not self._is_closed and len(self._idle) < self._kept_max:
                self._idle.append(computer)
                self._retire_later()
                return
        computer.end()

    def _retire_later(self) -> None:
        if self._retirement is None:
            self._retirement = threading.Timer(KEPT_SECONDS, self._retire)
            self._retirement.daemon = True
            self._retirement.start()

    def _retire(self) -> None:
        """End the processes that had nothing to compute for long."""
        with self._lock:
            self._retirement = None
            old = [one for one in self._idle if monotonic() - one.used_at >= KEPT_SECONDS]
            self._idle = [one for one in self._idle if one not in old]
            if self._idle:
                self._retire_later()
        for computer in old:
            computer.end()

    def close(self) -> None:
        """End every process. Work that runs ends as an error, so stop those who wait for it before."""
        with self._lock:
            self._is_closed = True
            if self._retirement is not None:
                self._retirement.cancel()
            left = [*self._idle, *self._busy]
            self._idle = []
        for computer in left:
            computer.end()


class _Computer:
    """A process that computes. One thread at a time uses it."""

    def __init__(self) -> None:
        # It needs no secret of the server's settings.
        env = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", computing.__name__),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=env | _ONE_THREAD,
            # The server gets the terminal's signals, and ends this process. No session of its own: in one, Linux may
            # give it as much time as the server, whatever its priority.
            process_group=0,
        )
        self._jobs, self._answers = _demanded(self._process.stdin), _demanded(self._process.stdout)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self.tenant_id: UUID | None = None
        self.is_free = False
        self.used_at = monotonic()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def answer(self, tenant_id: UUID, work: Callable[[], object]) -> Answer:
        """Return how the work ended. Afterwards `is_free` tells whether the process can be used again."""
        self.tenant_id, self.is_free = tenant_id, False
        message = computing.frame((tenant_id, work))
        try:
            self._send(message)
            while not self._has_answer(LOOK_SECONDS):
                try:
                    deadline.check()
                except (deadline.Expired, deadline.Stopped):
                    self._stop()
                    raise
            answer = self._read()
        except (BrokenPipeError, EOFError) as error:
            log.error("a process that computed a certificate ended (status %s)", self._process.wait())
            raise Internal() from error
        self.is_free, self.used_at = True, monotonic()
        return answer

    def _stop(self) -> None:
        with contextlib.suppress(BrokenPipeError, EOFError):  # it has ended already
            self._send(computing.STOP)
            if self._has_answer(STOP_SECONDS_MAX):
                self._read()
                self.is_free, self.used_at = True, monotonic()

    def _send(self, message: bytes) -> None:
        self._jobs.write(message)
        self._jobs.flush()

    def _has_answer(self, seconds: float) -> bool:
        return bool(self._poll.poll(1000 * seconds))

    def _read(self) -> Answer:
        (size,) = computing.HEADER.unpack(self._exactly(computing.HEADER.size))
        answer: Answer = pickle.loads(self._exactly(size))  # noqa: S301 (from our own program, over its own pipe)
        return answer

    def _exactly(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def end(self) -> None:
        """Kill the process, and wait until it has ended."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._jobs, self._answers):
            with contextlib.suppress(BrokenPipeError):  # of what was not sent
                pipe.close()


def _demanded(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise Internal()
    return pipe
