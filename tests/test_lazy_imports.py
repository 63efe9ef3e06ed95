"""What is imported when: by modules, never by seconds. An idle server, `--help` and a training job pay for little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = frozenset(
    {
        "numpy",
        "scipy",
        "matplotlib",
        "reportlab",
        "alembic",
        "httpx",
        "jinja2",
        "yaml",
        "dp_accounting",
        "authlib",
        "joserfc",
    }
)
SERVER = HEAVY | {"sqlalchemy", "psycopg", "fastapi", "pydantic", "cryptography", "jwt", "uvicorn"}
LISTED = "\nimport json, sys\nprint(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

IDLE = """
import asyncio, os
from ledger.api.app import create_app
from ledger.operate import deploy
from ledger.settings import load

settings = load()
deploy.bring_up_to_date(settings)
app = create_app()

async def idle():
    async with app.router.lifespan_context(app):
        pass

asyncio.run(idle())
"""
PAGES = IDLE.replace("        pass", "        import ledger.ui.app")
COSTS = """
from ledger.accounting import closed_forms, gdp, numeric
assert not numeric.is_ready()
assert closed_forms.mu_pure_dp(epsilon=1.0) > 0
assert numeric.is_ready()
"""
HELP = """
from ledger.cli import app
try:
    app(["--help"], standalone_mode=False)
except SystemExit:
    pass
"""


def _imported(program: str, folder: Path, **environment: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", program + LISTED],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return set(json.loads(ended.stdout.splitlines()[-1]))


def test_an_idle_server_has_nothing_that_works_numbers_out(tmp_path: Path) -> None:
    """Goal: a worker that waits has neither NumPy and SciPy nor what reports, migrates and calls others. Method: a
    server on a new SQLite file, migrated by another process, started and ended; what it imported."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    made = _imported(IDLE, tmp_path, LEDGER_DATABASE_URL=url)
    assert "alembic" in made
    imported = _imported(IDLE, tmp_path, LEDGER_DATABASE_URL=url)
    assert {"fastapi", "sqlalchemy", "ledger"} <= imported
    assert not imported & HEAVY


def test_what_signs_people_in_by_issuers_comes_with_the_first(tmp_path: Path) -> None:
    """Goal: Authlib is imported when somebody signs in by an issuer, and not before. Method: a server that has such an
    issuer, with its pages."""
    rule = {"claims": {"sub": "x"}, "tenant": "3f0e7a52-6a44-4d1a-9d0e-6f2f3c1c8f11", "role": "auditor"}
    issuer = {"issuer": "https://issuer.example", "audience": "a", "algorithms": ["RS256"], "rules": [rule]}
    file = tmp_path / "oidc.json"
    file.write_text(json.dumps({"issuers": [{**issuer, "client_id": "a"}]}))
    url = f"sqlite:///{tmp_path}/ledger.db"
    imported = _imported(PAGES, tmp_path, LEDGER_DATABASE_URL=url, LEDGER_OIDC_FILE=str(file))
    assert "jinja2" in imported
    assert not imported & {"authlib", "joserfc"}


@pytest.mark.parametrize("program", ["import ledger.client", HELP], ids=["client", "help"])
def test_what_is_light(tmp_path: Path, program: str) -> None:
    """Goal: `import ledger.client` and `privacy-ledger --help` import nothing of the server, and no httpx. Method: a
    process of its own for each."""
    assert not _imported(program, tmp_path) & SERVER


def test_the_list_of_advisories_is_light(tmp_path: Path) -> None:
    """Goal: a client's command line lists known faults without the server. Method: what a process of its own imports;
    Typer imports Pydantic if it is there."""
    program = HELP.replace('["--help"]', '["advisories", "--known", "--json"]')
    assert not _imported(program, tmp_path) & (SERVER - {"pydantic"})


def test_a_client_imports_httpx_at_its_first_use(tmp_path: Path) -> None:
    """Goal: httpx is there when there is something to call. Method: make a client."""
    assert "httpx" in _imported("import ledger.client\nledger.client.Ledger(key='pbl_x')", tmp_path)


def test_the_first_number_imports_what_works_it_out(tmp_path: Path) -> None:
    """Goal: NumPy and SciPy come with the first number that needs them. Method: one closed form."""
    assert {"numpy", "scipy"} <= _imported(COSTS, tmp_path)
