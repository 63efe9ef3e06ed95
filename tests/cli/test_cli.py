"""The command line that starts a ledger, as a user types it: in processes of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from ledger.settings import Settings
from tests.conftest import Templates
from tests.kit import forked
from tests.kit.driver import MNIST, environment, serve

KEY = re.compile(r"pbl_[a-z2-7]{64}")


def run(
    *arguments: str, folder: Path, env: dict[str, str] | None = None, **said: str
) -> subprocess.CompletedProcess[str]:
    """Runs `privacy-ledger` to its end in this folder."""
    given = {**(env or {}), "PATH": "/usr/bin:/bin", "NO_COLOR": "1", **said}
    return forked.run(["ledger", *arguments], folder, given, seconds_max=120)


def test_serve_with_no_configuration_makes_a_ledger_and_keeps_its_keys_once(tmp_path: Path) -> None:
    """Goal: what `make run` does where its output is a log: the keys are in a file that is named, and in no log.
    Method: serve twice in an empty folder; the first admin key works both times."""
    settings = Settings(database_url="sqlite:///privacy-ledger.db")
    with serve(settings, tmp_path) as served:
        said = "".join(served.said)
        kept = tmp_path / "privacy-ledger.db-keys.env"
        assert not KEY.search(said)
        assert kept.name in said
        operator, admin = KEY.findall(kept.read_text())
        with served.client() as client:
            headers = {"Authorization": f"Bearer {admin}"}
            assert client.post("/v1/datasets", json=MNIST, headers=headers).status_code == 201
            assert client.get("/v1/datasets", headers={"Authorization": f"Bearer {operator}"}).status_code == 403
            documentation = client.get("/", follow_redirects=False)
            assert (documentation.status_code, documentation.headers["location"]) == (303, "/ui")
            assert client.get("/docs").status_code == 200
    files = "privacy-ledger.db", kept.name, "privacy-ledger.db.signing-key.pem", "kept-heads-of-privacy-ledger.db"
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == dict.fromkeys(files, "0o600")
    kept.unlink()
    with serve(settings, tmp_path) as served:
        assert not KEY.search("".join(served.said)), "the keys are made once"
        assert not kept.exists()
        answer = httpx.get(f"{served.url}/v1/datasets", headers={"Authorization": f"Bearer {admin}"})
        assert [item["name"] for item in answer.json()["items"]] == ["mnist"]


def test_init_prints_keys_once_and_has_a_way_back_in(tmp_path: Path) -> None:
    """Goal: init --json is for scripts, a second init says what to do, --reset-admin gives a key that works."""
    first = run("init", "--tenant", "acme", "--json", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    made = json.loads(first.stdout)
    assert set(made) == {"operator_key", "tenant", "admin_key"}
    again = run("init", folder=tmp_path)
    assert again.returncode == 2
    assert "--reset-admin" in again.stderr
    reset = json.loads(run("init", "--reset-admin", "acme", "--json", folder=tmp_path).stdout)
    unknown = run("init", "--reset-admin", "nobody", folder=tmp_path)
    assert (unknown.returncode, "'nobody'" in unknown.stderr) == (5, True)
    with serve(Settings(database_url="sqlite:///privacy-ledger.db"), tmp_path) as served:
        for key in (made["admin_key"], reset["admin_key"]):
            answer = httpx.get(f"{served.url}/v1/keys", headers={"Authorization": f"Bearer {key}"})
            assert answer.status_code == 200


def test_postgresql_is_migrated_and_set_up_when_it_is_said(postgresql: Settings, tmp_path: Path) -> None:
    """Goal: on PostgreSQL, serve implies nothing: migrate and init come first, and it says so."""
    env = environment(postgresql)
    assert json.loads(run("migrate", "--json", folder=tmp_path, env=env).stdout)["revision"]
    made = json.loads(run("init", "--json", folder=tmp_path, env=env).stdout)
    with serve(postgresql, tmp_path) as served:
        answer = httpx.get(f"{served.url}/v1/datasets", headers={"Authorization": f"Bearer {made['admin_key']}"})
        assert answer.json() == {"items": [], "next": None}


def test_postgresql_s_signing_key_is_made_by_init_and_never_by_serve(postgresql: Settings, tmp_path: Path) -> None:
    """Goal: `init` makes the key where a file is named; a server of several takes it from there."""
    named = postgresql.model_copy(update={"signing_key": None, "signing_key_file": tmp_path / "key.pem"})
    env = environment(named)
    assert "signing-key create" in refused_to_serve(env, tmp_path)
    assert run("init", folder=tmp_path, env=env).returncode == 0
    kid = json.loads(run("signing-key", "show", "--json", folder=tmp_path, env=env).stdout)["keys"][0]["kid"]
    with serve(named, tmp_path) as served:
        assert httpx.get(f"{served.url}/.well-known/jwks.json").json()["keys"][0]["kid"] == kid
    env.pop("LEDGER_SIGNING_KEY_FILE")
    assert "LEDGER_SIGNING_KEY_FILE" in refused_to_serve(env, tmp_path)


def refused_to_serve(env: dict[str, str], folder: Path) -> str:
    """What a server without a key says, which ends at once."""
    command = [sys.executable, "-c", "from ledger.api.app import create_app; create_app()"]
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    return ended.stderr


@pytest.mark.parametrize("command", ["serve", "init"])
def test_a_database_that_was_not_migrated(templates: Templates, tmp_path: Path, command: str) -> None:
    """Goal: the message says what to type next, and the exit status is 3."""
    from tests.kit import postgres

    kind = postgres.available()[0]
    server = templates.server(kind)
    url = postgres.create_database(server, f"empty_{command}_{tmp_path.name[-12:]}".replace("-", "_"))
    try:
        refused = run(command, folder=tmp_path, env=environment(templates.settings(url)))
        assert refused.returncode == 3, refused.stderr
        assert "privacy-ledger migrate" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        postgres.drop_database(server, url.rsplit("/", 1)[1])


@pytest.mark.parametrize(
    ("said", "names"),
    [
        ({"LEDGER_PORT": "http"}, "LEDGER_PORT"),
        ({"LEDGER_WORKERS": "0"}, "LEDGER_WORKERS"),
        ({"LEDGER_QUEUE_MAX": "-1"}, "LEDGER_QUEUE_MAX"),
        ({"LEDGER_DATABASE_URL": "mysql://u:secret@h/d"}, "LEDGER_DATABASE_URL"),
        ({"LEDGER_DATABASE_URL": "nonsense"}, "LEDGER_DATABASE_URL"),
        ({"LEDGER_DATABASE_URL": "postgresql://u:secret@127.0.0.1:1/d"}, "127.0.0.1"),
        ({"LEDGER_DATABASE_URL": "sqlite://"}, "LEDGER_DATABASE_URL"),
        ({"LEDGER_DATABASE_URL": "sqlite:////nowhere/at/all.db"}, "unable to open"),
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_and_no_secret_is_shown(tmp_path: Path, said: dict[str, str], names: str) -> None:
    """Goal: a mistake in the environment is one clear line: status 2, or 3 where the database cannot be used."""
    refused = run("serve", folder=tmp_path, env={"LEDGER_DATABASE_WAIT_SECONDS": "0", **said})
    assert refused.returncode == (2 if names.startswith("LEDGER_") else 3), refused.stderr
    assert names in refused.stderr
    assert "secret" not in refused.stderr
    assert "Traceback" not in refused.stderr


def test_settings_come_from_a_file_too(tmp_path: Path) -> None:
    """Goal: `.env` in the working directory counts, and the environment counts more."""
    (tmp_path / ".env").write_text("LEDGER_DATABASE_URL=sqlite:///from-file.db\n")
    assert run("init", folder=tmp_path).returncode == 0
    assert (tmp_path / "from-file.db").exists()
    assert run("init", folder=tmp_path, LEDGER_DATABASE_URL="sqlite:///from-env.db").returncode == 0
    assert (tmp_path / "from-env.db").exists()


def test_without_the_server_installed_it_says_what_to_install(tmp_path: Path) -> None:
    """Goal: the base install's command explains itself. Method: a Python in which the server's packages are hidden."""
    script = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('uvicorn', 'pydantic', 'pydantic_settings', 'sqlalchemy', 'alembic'):\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "sys.argv = ['privacy-ledger', 'init']\n"
        "from ledger.cli import main\n"
        "main()\n"
    )
    refused = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 2
    assert "privacy-ledger[server]" in refused.stderr
