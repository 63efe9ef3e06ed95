"""Where new secrets go, what is readable by whom, and what `serve` says of files that are open."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from pydantic import SecretStr

from ledger.cli import secrets
from ledger.errors import InvalidRequest
from ledger.operate import openness
from ledger.settings import Settings
from tests.cli.test_cli import KEY, run
from tests.kit.driver import Terminal, serve

SECRET = re.compile(r"pbl_[a-z2-7]{64}|PRIVATE KEY")
OPEN = 0o644


def modes(folder: Path) -> dict[str, int]:
    """The permissions of all files in a folder."""
    return {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir() if path.is_file()}


def in_a_terminal(*arguments: str, folder: Path, until: str | None = None) -> str:
    """What a command prints to a terminal of its own, to its end or until a text."""
    ours, theirs = pty.openpty()
    words = [sys.executable, "-m", "ledger", *arguments]
    environment = {"PATH": "/usr/bin:/bin", "NO_COLOR": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=theirs) as process:
        os.close(theirs)
        printed = b""
        try:
            while until is None or until.encode() not in printed:
                printed += (read := os.read(ours, 65536))
                if not read:
                    break
        except OSError:  # Linux says so when the other end is closed
            pass
        finally:
            if until is not None:
                process.terminate()
            process.wait(60)
            os.close(ours)
    return printed.decode()


def test_a_terminal_shows_the_first_keys(tmp_path: Path) -> None:
    """Goal: who types `make run` or `init` sees the keys, once, and no file has them."""
    shown = in_a_terminal("init", folder=tmp_path)
    operator, admin, exported = KEY.findall(shown)
    assert operator != admin == exported
    again = in_a_terminal("init", "--reset-admin", "default", folder=tmp_path)
    assert len(KEY.findall(again)) == 1
    assert not any(SECRET.search(path.read_text()) for path in tmp_path.glob("*keys*"))


def test_serve_in_a_terminal_shows_the_first_keys(tmp_path: Path) -> None:
    """Goal: what README says of `make run`. Method: a server process with a terminal as its output."""
    shown = in_a_terminal("serve", folder=tmp_path, until="dataset create mnist")
    assert len(KEY.findall(shown)) == 3
    url = re.search(r"export LEDGER_URL=(http://127\.0\.0\.1:[0-9]+)\s+export LEDGER_KEY=pbl_", shown)
    assert url is not None
    assert re.search(r"privacy-ledger whoami\s|-m ledger whoami\s", shown)
    assert list(tmp_path.glob("*keys*")) == []


def test_serve_in_a_terminal_shows_a_link_that_signs_in(tmp_path: Path) -> None:
    """Goal: the first page is one click away, at every start on this machine, and no log gets a link. Method: a server
    with a terminal, twice; each link once, on a server of the same database, whose output is no terminal."""
    links = []
    for _ in range(2):
        shown = in_a_terminal("serve", folder=tmp_path, until="/ui/sign-in/once/pbo_")
        links += re.findall(r"http://127\.0\.0\.1:8000(/ui/sign-in/once/pbo_[A-Za-z0-9_-]{64})", shown)
    assert len(set(links)) == 2
    elsewhere = in_a_terminal("serve", "--host", "0.0.0.0", folder=tmp_path, until="Sign in with a key.")
    assert "The dashboard is at http://127.0.0.1:8000/ui. Sign in with a key." in elsewhere
    assert "pbo_" not in elsewhere
    settings = Settings(database_url=SecretStr(f"sqlite:///{tmp_path / 'privacy-ledger.db'}"), computing_processes=0)
    with serve(settings, tmp_path) as served, served.client() as client:
        for link in links:
            assert [client.get(link).status_code for _ in range(2)] == [303, 401]
        assert "pbo_" not in "".join(served.said)


def test_init_elsewhere_keeps_keys_in_a_file(tmp_path: Path) -> None:
    """Goal: what is no terminal gets the name of a file of mode 600, which a shell reads; --json and --output - print.
    Method: the umask of the caller lets everybody read."""
    kept = run("init", folder=tmp_path)
    assert kept.returncode == 0, kept.stderr
    assert not SECRET.search(kept.stdout + kept.stderr)
    path = tmp_path / kept.stdout.partition(":")[0]
    assert path.stat().st_mode & 0o777 == 0o600
    command = kept.stdout.partition("To use it: ")[2].strip()
    words = ["sh", "-c", f"{command}; echo $LEDGER_KEY; echo $LEDGER_OPERATOR_KEY"]
    used = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    admin, operator = used.stdout.split()
    assert sorted(KEY.findall(path.read_text())) == sorted([admin, operator])
    refused = run("init", folder=tmp_path)
    assert refused.returncode == 2
    second = run("init", "--reset-admin", "default", folder=tmp_path)
    assert second.stdout.startswith(f"{path.name}.2: ")
    assert set(modes(tmp_path)) >= {path.name, f"{path.name}.2"}
    assert f"{path.name}.3" not in modes(tmp_path)
    named = run("init", "--reset-admin", "default", "--output", "mine", "--json", folder=tmp_path)
    assert json.loads(named.stdout) == {"tenant": "default", "file": "mine"}
    assert set(modes(tmp_path).values()) == {0o600}
    printed = run("init", "--reset-admin", "default", "--output", "-", folder=tmp_path)
    assert len(KEY.findall(printed.stdout)) == 1


def test_no_keys_are_made_that_cannot_be_kept(tmp_path: Path) -> None:
    """Goal: where the file cannot be made, no key is. Method: a file that is there; the ledger can be set up after."""
    (tmp_path / "there").touch()
    refused = run("init", "--output", "there", folder=tmp_path)
    assert (refused.returncode, "exists already" in refused.stderr) == (2, True)
    refused = run("init", "--output", "no/such/folder", folder=tmp_path)
    assert (refused.returncode, "--output -" in refused.stderr) == (2, True)
    assert (tmp_path / "there").read_text() == ""
    assert run("init", folder=tmp_path).returncode == 0


def test_commands_that_make_keys(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: every command that makes a key prints it to a terminal, or where that was asked for, and else keeps it in a
    file; where the call fails there is no file. Method: each of them, without a terminal."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    made = terminal("key create ci --role auditor --json").json
    assert KEY.fullmatch(made["secret"])
    for line in ("key create other --role auditor", f"key rotate {made['id']}"):
        kept = terminal(line)
        assert kept.status == 0
        assert not SECRET.search(kept.out + kept.err)
        path = folder / kept.out.partition(":")[0]
        assert re.fullmatch(r"LEDGER_KEY=pbl_[a-z2-7]{64}\n", path.read_text())
        in_json = terminal(f"{line} --output named-{path.name} --json").json
        assert ("secret" in in_json, in_json["file"]) == (False, f"named-{path.name}")
        assert KEY.search(terminal(f"{line} --output -").out)
    assert set(modes(folder).values()) == {0o600}
    before = modes(folder)
    assert terminal("key create other --role nobody").status == 2
    assert terminal("tenant create another").status == 4
    assert terminal("key create other --role auditor --output privacy-ledger-key.env").status == 2
    assert modes(folder) == before
    assert SECRET.search(terminal("signing-key create --output -").out)
    assert not SECRET.search(terminal("signing-key create --output new.pem").out)
    assert modes(folder)["new.pem"] == 0o600


def test_a_file_is_not_written_over_nor_through_a_link(tmp_path: Path) -> None:
    """Goal: a secret goes into a new file of ours, whatever stands in its place."""
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("target", "link", "dangling"):
        with pytest.raises(InvalidRequest):
            secrets.PrivateFile(tmp_path / name)
    made = secrets.PrivateFile.beside(tmp_path / "link")
    made.write({"A": "1"})
    assert made.path.name == "link.2"
    assert (tmp_path / "target").read_text() == ""
    assert not (tmp_path / "nothing").exists()


def test_heads_stay_public(tmp_path: Path) -> None:
    """Goal: what is published for others to keep is readable by others, whatever the process keeps to itself."""
    heads = tmp_path / "heads"
    settings = Settings(database_url=f"sqlite:///{tmp_path}/l.db", heads_dir=heads)
    environment = {"LEDGER_DATABASE_URL": settings.database_url.get_secret_value()}
    assert run("init", folder=tmp_path, env=environment).returncode == 0
    published = subprocess.run(
        [sys.executable, "-c", PUBLISHES, str(heads)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert published.returncode == 0, published.stderr
    assert heads.stat().st_mode & 0o777 == 0o755
    assert (heads / "tenant").stat().st_mode & 0o777 == 0o755
    assert (heads / "tenant" / "journal").stat().st_mode & 0o777 == 0o644


PUBLISHES = """
import sys
from pathlib import Path
from ledger.cli import secrets
from ledger.signer import publish
secrets.keep_private()
folder = Path(sys.argv[1]) / "tenant"
publish._make_public(folder)
with publish._locked(folder / "journal"):
    pass
"""


def test_serve_warns_of_open_files(tmp_path: Path) -> None:
    """Goal: a database, its backups and keys that others can read are named, each with the command that closes it; what
    is closed or public is not. Method: files are opened, a server starts, and what it says to paste is run; then it
    says nothing."""
    settings = Settings(database_url="sqlite:///ledger.db")
    assert run("init", folder=tmp_path, LEDGER_DATABASE_URL="sqlite:///ledger.db").returncode == 0
    opened = {"ledger.db", "ledger.db-keys.env", "ledger.db.bak", "ledger-2026.db", "ledger.db-wal.copy", ".env"}
    for name in (*opened, "ledger.db.signing-key.retired.json", "other.txt"):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(OPEN)
    (tmp_path / "ledger.db.signing-key.retired.json").write_text('{"keys": []}')
    with serve(settings, tmp_path) as served:
        warned = [line for line in served.said if "chmod" in line]
    commands = [line.partition("close it: ")[2].strip() for line in warned]
    assert {shlex.split(command)[-1] for command in commands} == opened
    for command in commands:
        subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    assert {name for name, mode in modes(tmp_path).items() if mode != 0o600} == {
        "ledger.db.signing-key.retired.json",
        "other.txt",
    }
    with serve(settings, tmp_path) as served:
        assert not [line for line in served.said if "chmod" in line]


def test_rules_for_tokens_may_be_read_but_not_changed(tmp_path: Path) -> None:
    """Goal: the file that lets anyone in is the operator's to change; the signing key is nobody else's to read."""
    rules, key = tmp_path / "oidc.json", tmp_path / "key.pem"
    for path in (rules, key):
        path.touch()
        path.chmod(OPEN)
    settings = Settings(database_url="postgresql://a@b/c", oidc_file=rules, signing_key_file=key)
    assert [found.remedy for found in openness.open_files(settings)] == [f"chmod 600 {key}"]
    rules.chmod(0o666)
    assert [found.remedy for found in openness.open_files(settings)] == [f"chmod 600 {key}", f"chmod go-w {rules}"]


def test_the_secret_of_a_client_is_nobody_elses_to_read(tmp_path: Path) -> None:
    """Goal: the file of a client's secret is one that others must not read. Method: the file of issuers names it."""
    rules, secret = tmp_path / "oidc.json", tmp_path / "client secret"
    secret.write_text("x")
    secret.chmod(OPEN)
    rule = {"claims": {"sub": "x"}, "tenant": str(uuid.uuid4()), "role": "auditor"}
    issuer = {"issuer": "https://issuer.example", "audience": "a", "algorithms": ["RS256"], "rules": [rule]}
    client = {"client_id": "a", "client_secret": {"file": str(secret)}}
    rules.write_text(json.dumps({"issuers": [{**issuer, **client}]}))
    rules.chmod(0o600)
    settings = Settings(database_url="postgresql://a@b/c", oidc_file=rules)
    assert [found.remedy for found in openness.open_files(settings)] == [f"chmod 600 '{secret}'"]
    secret.chmod(0o600)
    assert not list(openness.open_files(settings))
