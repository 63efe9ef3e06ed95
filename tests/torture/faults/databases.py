"""The databases under test, and what can be done to them: kill, stop, fill the disk, take the connections."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psycopg

from tests.kit import postgres
from tests.torture.faults.servers import free_port, is_running

CONNECTIONS_MAX: Final = 40
START_SECONDS_MAX: Final = 60
REMOUNTS_MAX: Final = 50
OPTIONS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": str(CONNECTIONS_MAX),
    "shared_buffers": "128MB",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    # As fast as it may be: it is killed every few seconds.
    "max_wal_size": "512MB",
    "logging_collector": "off",
}
TERMINATE: Final = (
    "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE usename = 'ledger_server' AND (NOT %s OR (state = 'active' AND query ILIKE 'commit%%'))"
)


@dataclass(frozen=True, slots=True)
class Volume:
    """A file system of its own, which can be filled and made read-only."""

    path: Path

    def fill(self) -> None:
        """Leave no byte free."""
        with (self.path / "filler").open("wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(self.path).free - (4 << 20))
            file.seek(0, os.SEEK_END)
            for size in (1 << 20, 1 << 12, 1 << 9):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"\0" * size)

    def free(self) -> None:
        """Give the room back."""
        (self.path / "filler").unlink(missing_ok=True)

    def remount(self, option: str) -> bool:
        """Mount it as `ro` or `rw`, and return whether that was possible: threads of a killed process may end late."""
        for _ in range(REMOUNTS_MAX):
            done = subprocess.run(["mount", "-o", f"remount,{option}", self.path], capture_output=True, check=False)
            if done.returncode == 0:
                return True
            time.sleep(0.1)
        return False


@contextlib.contextmanager
def volume(folder: Path, megabytes: int) -> Iterator[Volume | None]:
    """A file system in a file, if this process may mount one."""
    image, path = folder / "volume.img", folder / "volume"
    path.mkdir()
    with image.open("wb") as file:
        file.truncate(megabytes << 20)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, path], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        image.unlink()
        yield None
        return
    try:
        yield Volume(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
        image.unlink()


@dataclass(slots=True)
class Cluster:
    """A PostgreSQL of its own."""

    folder: Path
    """Reachable for its user."""
    data: Path
    user: postgres.OsUser
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    process: subprocess.Popen[bytes] | None = None
    binaries: Path = field(default_factory=lambda: postgres.binaries("installed"))

    def make(self) -> None:
        """Make the cluster, the owner's role and the database, and start it."""
        secret = self.folder / "password"
        secret.write_text(self.password)
        self.data.mkdir(mode=0o700)
        for path in (self.folder, self.data):
            self.user.own(path)
        words: list[str | Path] = ["-D", self.data, "--username=postgres", "--auth=password", f"--pwfile={secret}"]
        self.user.run(
            self.binaries / "initdb", *words, "--no-sync", "--encoding=UTF8", "--locale=C", "--no-instructions"
        )
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in OPTIONS.items())
        self.start()
        with self.session() as session:
            session.execute(f"CREATE ROLE ledger_owner LOGIN CREATEROLE PASSWORD '{self.password}'")
            session.execute("CREATE DATABASE ledger OWNER ledger_owner")

    def url(self, role: str, database: str = "ledger") -> str:
        """The database as a role opens it."""
        return f"postgresql://{role}:{self.password}@127.0.0.1:{self.port}/{database}"

    def session(self) -> psycopg.Connection[Any]:
        """A superuser's session."""
        return psycopg.connect(self.url("postgres", "postgres"), autocommit=True, connect_timeout=5)

    def start(self) -> None:
        """Start it, and wait until it answers; a recovery comes first, if it was killed."""
        with (self.folder / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", self.data, "-p", str(self.port)],
                cwd="/",
                env={"LC_ALL": "C", "PATH": os.environ["PATH"]},
                user=self.user.uid,
                group=self.user.gid,
                extra_groups=None if self.user.uid is None else [],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < ends:
            if self.process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {self.log()}")
            with contextlib.suppress(psycopg.OperationalError), self.session():
                return
            time.sleep(0.05)
        raise RuntimeError("PostgreSQL does not answer")

    def log(self) -> str:
        """The end of what it printed."""
        return (self.folder / "postgres.log").read_text(errors="replace")[-2000:]

    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def processes(self) -> list[int]:
        """All of its processes, the first one first."""
        if self.process is None:
            return []
        tasks = Path(f"/proc/{self.process.pid}/task").glob("*/children")
        with contextlib.suppress(OSError):
            return [self.process.pid, *(int(pid) for task in tasks for pid in task.read_text().split())]
        return [self.process.pid]

    def signal(self, number: int) -> None:
        """Send all of its processes a signal."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL to all of its processes; it stays down."""
        pids = self.processes()
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        if self.process is not None:
            self.process.wait()
        while any(is_running(pid) for pid in pids):
            time.sleep(0.01)

    def terminate(self, *, in_commit: bool, seconds: float = 1.5) -> int:
        """End the servers' sessions, those in a COMMIT if there are any in that time: how many."""
        ends = time.monotonic() + seconds
        with self.session() as session:
            while time.monotonic() < ends:
                row = session.execute(TERMINATE, [in_commit]).fetchone()
                if row is not None and row[0]:
                    return int(row[0])
        return 0

    def exhaust(self) -> list[psycopg.Connection[Any]]:
        """Take all connections that are left, after the servers' sessions ended."""
        taken: list[psycopg.Connection[Any]] = []
        self.terminate(in_commit=False)
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                url = self.url("ledger_owner")
                taken.append(psycopg.connect(url, autocommit=True, connect_timeout=5))
        return taken

    def version(self) -> str:
        """Its version."""
        with self.session() as session:
            return f"PostgreSQL {session.info.server_version // 10000}.{session.info.server_version % 10000}"

    def close(self) -> None:
        """End it, with its files."""
        if self.is_alive():
            self.signal(signal.SIGCONT)
            self.kill()
        shutil.rmtree(self.data, ignore_errors=True)


def server_user() -> postgres.OsUser:
    """Who runs PostgreSQL, which refuses to run as root."""
    if os.geteuid() != 0:
        return postgres.OsUser()
    found = pwd.getpwnam("postgres")
    return postgres.OsUser(found.pw_uid, found.pw_gid)
