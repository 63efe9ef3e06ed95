"""A real PgBouncer in transaction mode, before a database of the tests. Skipped on a machine without it."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import URL, make_url

from ledger.settings import Settings
from tests.kit.databases import until
from tests.kit.postgres import free_port, os_user

FOLDERS = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))


def program() -> str:
    """The path of PgBouncer."""
    path = shutil.which("pgbouncer", path=FOLDERS)
    if path is None:
        pytest.skip("PgBouncer is not installed (Debian: apt-get install pgbouncer)")
    return path


@contextlib.contextmanager
def pooled(settings: Settings, *, connections: int) -> Iterator[Settings]:
    """The same database through a pooler, which has this many connections for each role."""
    server, owner = make_url(settings.database_url.get_secret_value()), make_url(settings.owner_url)
    user, port = os_user(), free_port()
    with tempfile.TemporaryDirectory(prefix="ledger-pooler-") as name:
        folder = Path(name)
        (folder / "userlist.txt").write_text("".join(f'"{one.username}" "{one.password}"\n' for one in (server, owner)))
        (folder / "pgbouncer.ini").write_text(_configured(server, port, folder, connections))
        user.own(folder)
        process = user.launch(program(), "--quiet", folder / "pgbouncer.ini", stdin=subprocess.DEVNULL)
        try:
            until(lambda: _listens(port))
            through = [
                one.set(host="127.0.0.1", port=port).render_as_string(hide_password=False) for one in (server, owner)
            ]
            yield settings.model_copy(
                update={"database_url": SecretStr(through[0]), "owner_database_url": SecretStr(through[1])}
            )
        finally:
            process.terminate()
            process.communicate()


def _configured(server: URL, port: int, folder: Path, connections: int) -> str:
    lines = (
        "[databases]",
        f"* = host={server.host} port={server.port or 5432}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = scram-sha-256",
        f"auth_file = {folder / 'userlist.txt'}",
        "pool_mode = transaction",
        f"default_pool_size = {connections}",
        "max_client_conn = 200",
    )
    return "\n".join(lines) + "\n"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False
