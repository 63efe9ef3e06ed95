"""The servers under test: `privacy-ledger serve` processes, each started again as soon as it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.torture.wire import Wire, request

IMPORTED: Final = ("ledger.api.app", "ledger.api.protocol", "ledger.cli", "ledger.logs", "uvicorn.main", "uvloop")
FAKETIME: Final = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
READY_SECONDS: Final = 1.0
START_SECONDS_MAX: Final = 90
POLL_SECONDS: Final = 0.05


class Starter:
    """The process that forks servers."""

    def __init__(self) -> None:
        words = [sys.executable, "-m", "tests.torture.faults.starter", *IMPORTED]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._read()

    def start(self, command: Sequence[str], env: Mapping[str, str], folder: Path, log: Path) -> int:
        """Start a command: its process."""
        told = {"command": list(command), "env": dict(env), "folder": str(folder), "log": str(log)}
        if self._process.stdin is None:
            raise RuntimeError("the starter has no input")
        self._process.stdin.write(json.dumps(told) + "\n")
        return int(self._read())

    def close(self) -> None:
        """End it; what it started goes on."""
        self._process.communicate()

    def _read(self) -> str:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError("the starter has ended")
        return line


@dataclass(slots=True)
class Slot:
    """A place for a server: one after another, all on one port."""

    number: int
    port: int
    pid: int = 0
    starts: int = 0
    is_kept: bool = True
    """Whether it is started again once it has ended."""
    fake: str | None = None
    """The file of the clock of the next server here, if it is not the machine's."""
    own: subprocess.Popen[bytes] | None = None

    def is_alive(self) -> bool:
        """Whether its process runs."""
        if self.own is not None:
            return self.own.poll() is None
        return self.pid > 0 and is_running(self.pid)

    def signal(self, number: int) -> bool:
        """Send the process a signal, if it runs."""
        with contextlib.suppress(ProcessLookupError):
            if self.is_alive():
                os.kill(self.pid, number)
                return True
        return False


def is_running(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@dataclass(slots=True)
class Servers:
    """All of them."""

    folder: Path
    env: Mapping[str, str]
    slots: list[Slot]
    starter: Starter = field(default_factory=Starter)

    @classmethod
    def of(cls, folder: Path, env: Mapping[str, str], count: int) -> Servers:
        """So many, not started yet."""
        return cls(folder, env, [Slot(number, free_port()) for number in range(count)])

    def start(self, slot: Slot) -> None:
        """Start a server there."""
        slot.starts += 1
        log = self.folder / f"server-{slot.number}.log"
        env = {**self.env, "LEDGER_PORT": str(slot.port)}
        env.setdefault("LEDGER_KEPT_HEADS_FILE", str(self.folder / f"kept-heads-{slot.number}.db"))
        if slot.fake is None:
            slot.own, slot.pid = None, self.starter.start(["ledger", "serve"], env, self.folder, log)
            return
        faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_TIMESTAMP_FILE": slot.fake, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        # As few processes as possible see the file: each reads it again and again.
        more = {**faked, "FAKETIME_NO_CACHE": "1", "FAKETIME_DISABLE_SHM": "1"}
        with log.open("ab") as output:
            words = [sys.executable, "-m", "ledger", "serve"]
            slot.own = subprocess.Popen(
                words, env={**env, **more}, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        slot.pid = slot.own.pid

    async def keep(self) -> None:
        """Start each again that has ended, until this is cancelled."""
        while True:
            for slot in self.slots:
                if slot.is_kept and not slot.is_alive():
                    self.start(slot)
            await asyncio.sleep(POLL_SECONDS)

    async def ready(self, *slots: Slot) -> None:
        """Wait until these are ready, or all of them. Raises TimeoutError."""
        async with asyncio.timeout(START_SECONDS_MAX):
            for slot in slots or self.slots:
                while not await is_ready(slot.port):  # noqa: ASYNC110 (it is asked, and does not call)
                    await asyncio.sleep(POLL_SECONDS)

    def close(self) -> None:
        """End all of them."""
        for slot in self.slots:
            slot.is_kept = False
            slot.signal(signal.SIGCONT)
            slot.signal(signal.SIGKILL)
            if slot.own is not None:
                slot.own.wait()
        self.starter.close()


async def is_ready(port: int) -> bool:
    """Whether a server answers that it is ready."""
    wire = Wire(f"http://127.0.0.1:{port}")
    with contextlib.closing(wire):
        try:
            async with asyncio.timeout(READY_SECONDS):
                return (await wire.ask(request("GET", "/readyz")))[0] == 200
        except (OSError, TimeoutError):
            return False


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with these settings of the ledger, and no others."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("LEDGER_")}
    return given | {f"LEDGER_{name.upper()}": value for name, value in settings.items()}


def command(words: Sequence[str], env: Mapping[str, str], folder: Path) -> Any:
    """What a command of `privacy-ledger` prints as JSON. Raises CalledProcessError."""
    run = [sys.executable, "-m", "ledger", *words]
    done = subprocess.run(run, env=dict(env), cwd=folder, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout) if done.stdout.strip() else None


@contextlib.contextmanager
def closing(servers: Servers) -> Iterator[Servers]:
    """The servers, and their end."""
    try:
        yield servers
    finally:
        servers.close()
