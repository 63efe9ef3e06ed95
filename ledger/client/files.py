"""The files that a client keeps on this machine, so that a process that dies leaves what a later one must know.

    LEDGER_STATE_DIR, or the user's state directory, such as ~/.local/state/privacy-ledger
    id               a random name of this directory, which no other one has
    keys/…           the idempotency key of a run that was asked for: written before the request is sent
    runs/…           the steps that a run may have executed, never fewer than it did; and the token of its start
    starts/…         the token of a start by the command line, until it is answered
    pending/…        settlements that could not be sent yet
    sweeps/…         the numbers of trials that another library names

A file is replaced as a whole and is on the disk before the call returns. Locks end with the process that holds them.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.client.flows import log
from ledger.client.jobs import new_token, token_digest
from ledger.deferred import Deferred

if TYPE_CHECKING:
    import filelock
    import platformdirs
else:
    filelock, platformdirs = Deferred("filelock"), Deferred("platformdirs")

FILES_MAX: Final = 1_000
"""How many keys of ended runs are remembered, and tokens of starts. The oldest half is removed beyond that."""
STEPS_MAX: Final = 10**12
"""The most steps that a ledger takes."""


class Files:
    """A state directory."""

    def __init__(self, folder: Path) -> None:
        """Make the directory. Raises OSError if it cannot be written."""
        self.folder = folder
        for name in ("keys", "runs", "starts", "pending", "sweeps"):
            (folder / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.id = self._id()

    def _id(self) -> str:
        """Return the random name of this directory. The process that links it first decides it for all."""
        path = self.folder / "id"
        if not path.exists():
            new = self.folder / f"id.{secrets.token_hex(8)}"
            _write(new, secrets.token_hex(16).encode())
            with suppress(FileExistsError):
                os.link(new, path)
            new.unlink()
        return path.read_text("ascii")

    def read(self, name: str) -> dict[str, Any] | None:
        """Return what a file contains; None if there is none, or if it contains no JSON object."""
        try:
            content = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a file, on the disk too. Raises OSError."""
        path = self.folder / name
        new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.new")
        try:
            _write(new, json.dumps(content).encode())
            new.replace(path)
        except BaseException:
            with suppress(OSError):
                new.unlink()
            raise
        _flush_folder(path.parent)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            (self.folder / name).unlink()

    def names(self, kind: str) -> Iterator[str]:
        """Return the names of the files of a kind, oldest first."""
        found: list[tuple[float, str]] = []
        for path in (self.folder / kind).glob("*.json"):
            with suppress(OSError):
                found.append((path.stat().st_mtime, f"{kind}/{path.name}"))
        return (name for _, name in sorted(found))

    def put_last(self, name: str) -> None:
        """Make a file the newest of its kind, if it is there."""
        with suppress(OSError):
            os.utime(self.folder / name)

    def lock(self, name: str, *, wait_seconds: float = 0) -> filelock.BaseFileLock | None:
        """Take a lock, and return it; None if another one has it. Raises OSError if the directory cannot lock."""
        lock = filelock.FileLock(self.folder / f"{name}.lock", timeout=wait_seconds)
        try:
            lock.acquire()
        except filelock.Timeout:
            return None
        except NotImplementedError as error:
            raise OSError(str(error)) from error
        return lock

    def bound_keys(self) -> None:
        """Remove the oldest keys, if there are too many. A run is found again on the server without its file."""
        for name, content in self._oldest("keys"):
            if content.get("ended"):
                self.remove(name)
                self.remove(name.removesuffix(".json") + ".lock")

    def bound_starts(self) -> None:
        """Remove the oldest starts that no process here went on from, if there are too many. Without its file, a run
        counts as started by another process."""
        for name, content in self._oldest("runs"):
            if content.get("begun") is False:
                self.remove(name)
        for name, _ in self._oldest("starts"):
            self.remove(name)

    def _oldest(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return the oldest files of a kind that has too many."""
        names = list(self.names(kind))
        if len(names) > FILES_MAX:
            for name in names[: FILES_MAX // 2]:
                content = self.read(name)
                if content is not None:
                    yield name, content


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Write a folder's list of files to the disk, where folders can be flushed."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def open_files() -> Files | None:
    """Return the user's state directory; None, with a warning, if it cannot be written."""
    folder = os.environ.get("LEDGER_STATE_DIR") or platformdirs.user_state_path("privacy-ledger")
    try:
        return Files(Path(folder))
    except OSError as error:
        log.warning(
            "%s cannot be written (%s), so a job that is killed cannot know what it executed: its restart is refused"
            " until that is stated (steps_done). Set LEDGER_STATE_DIR to a directory that outlives the job.",
            folder,
            error.strerror or error,
        )
        return None


class Record:
    """What the processes of a run may have executed, on this machine: never less than they did.

    Steps are written before they are allowed, in blocks: a process that is killed leaves a number that is at least what
    it executed. is_known: whether everything that was executed before is in `steps`. steps: by part of the run. ends:
    after how many steps each earlier process ended. host: on which machine the newest process wrote it.
    token: by which this place starts the run, if it does. is_begun: whether a process here got the answer, or went on
    from what another place executed; until then the run may be started by that place.
    """

    def __init__(self, files: Files, run: str, lock: object) -> None:
        self._files, self._name, self._lock, self._run = files, f"runs/{run}.json", lock, run
        content = files.read(self._name)
        self.host = (content or {}).get("host")
        token = (content or {}).get("token")
        self.token = token if isinstance(token, str) and token else None
        self.is_begun = content is not None and content.get("begun") is not False
        try:
            self.steps = {str(name): _steps(steps) for name, steps in (content or {})["steps"].items()}
            self.ends = [_steps(steps) for steps in (content or {})["ends"]]
            self.is_known = True
        except (KeyError, TypeError, ValueError, AttributeError):
            self.steps, self.ends, self.is_known = {}, [], False

    def intend(self) -> str:
        """Return the token by which this place starts the run, once it is on the disk: a later process here sends the
        same. Raises OSError."""
        if self.token is None or not self.is_known:
            self.token, self.is_known, self.is_begun = new_token(), True, False
            self.reserve(self.steps)
            self._files.bound_starts()
        return self.token

    def is_of(self, started: Mapping[str, Any] | None) -> bool:
        """Return whether a process here started the run, or took it over. started: the ledger's note of its start."""
        digest = (started or {}).get("token_sha256")
        return self.is_begun or (self.token is not None and token_digest(self.token) == digest)

    def begin(self, steps: dict[str, int], *, is_restart: bool) -> None:
        """Write what was executed before this process. Raises OSError."""
        if is_restart:
            self.ends.append(sum(steps.values()))
        self.is_known = self.is_begun = True
        self.reserve(steps)

    def reserve(self, steps: dict[str, int]) -> None:
        """Write how many steps of each part may have been executed, before they are. Raises OSError."""
        host = socket.gethostname()
        about = {"run": self._run, "token": self.token, "begun": self.is_begun, "host": host}
        self._files.write(self._name, {**about, "steps": steps, "ends": self.ends})
        self.steps, self.host = steps, host

    def forget(self) -> None:
        """Remove the file: the run has ended, or its steps cannot be written any more. Raises OSError."""
        self._files.remove(self._name)

    def close(self) -> None:
        """Let another process have the run."""
        if self._lock is not None:
            self._lock.release()  # type: ignore[attr-defined]
            self._lock = None


def _steps(value: object) -> int:
    """Return a number of steps. Raises ValueError for what no process wrote: then nothing is known of the run."""
    if type(value) is not int or not 0 <= value <= STEPS_MAX:
        raise ValueError(value)
    return value


def open_record(files: Files, run: str) -> Record | None:
    """Take a run, and return its record; None if another process on this machine trains it. Raises OSError."""
    lock = files.lock(f"runs/{run}")
    return None if lock is None else Record(files, run, lock)
