"""Getting in: profiles, options of all commands, and who wins if several name a server or a key."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import stat
from pathlib import Path

import pytest

from ledger import __version__, profiles
from ledger.cli import failing
from ledger.client import Ledger
from ledger.errors import LedgerError, Misconfigured, Unauthenticated
from ledger.profiles import Profile
from tests.kit.driver import Terminal


@pytest.fixture
def url_and_key(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A running server and a key, of which the environment knows nothing any more."""
    url, key = os.environ["LEDGER_URL"], os.environ["LEDGER_KEY"]
    monkeypatch.delenv("LEDGER_URL")
    monkeypatch.delenv("LEDGER_KEY")
    return url, key


def test_login_until_logout(
    terminal: Terminal, url_and_key: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Goal: a key is checked, kept where only its owner reads it, used, and removed; nothing prints it. Method: from
    standard input, from a file of keys, and a wrong key, which is not kept."""
    url, key = url_and_key
    missing = terminal("whoami")
    assert (missing.status, "privacy-ledger login" in missing.err) == (4, True)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{key}\n"))
    said = terminal(f"login --url {url}/")
    assert said.status == 0, said.err
    assert f"Logged in to {url}: admin of acme. Profile default" in said.out
    file = profiles.file_of_profiles()
    assert file.is_relative_to(tmp_path)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert terminal("whoami --json").json["role"] == "admin"
    assert terminal("dataset create a --mu 1 --bound clt").status == 0
    with Ledger() as ledger:
        assert ledger.me()["role"] == "admin"
    with pytest.raises(Misconfigured, match="is for http"):
        Ledger("https://elsewhere.example.org")
    monkeypatch.setenv("LEDGER_PROFILE", "absent")
    with pytest.raises(Unauthenticated, match="privacy-ledger login"):
        Ledger()
    monkeypatch.delenv("LEDGER_PROFILE")

    keys = tmp_path / "keys.env"
    keys.write_text(f"LEDGER_OPERATOR_KEY=x\nexport LEDGER_KEY={key}\n")
    kept = terminal(f"login --url {url} --key-file {keys} --profile second --json")
    assert (kept.json["profile"], kept.json["url"], kept.json["me"]["role"]) == ("second", url, "admin")
    assert key not in kept.out + kept.err + said.out + said.err
    monkeypatch.setattr("sys.stdin", io.StringIO("pbl_wrong\n"))
    assert terminal(f"login --url {url} --profile third").status == 4
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert terminal(f"login --url {url} --profile third").status == 2
    assert profiles.names() == ["default", "second"]

    assert terminal("logout").status == 0
    assert terminal("whoami").status == 4
    assert terminal("logout").status == 5
    assert terminal("--profile second whoami").status == 0
    monkeypatch.setenv("LEDGER_PROFILE", "second")
    assert terminal("whoami").status == 0
    monkeypatch.setenv("LEDGER_PROFILE", "nobody")
    assert terminal("whoami").status == 5


def test_options_of_all_commands(terminal: Terminal, url_and_key: tuple[str, str], tmp_path: Path) -> None:
    """Goal: --url and --key-file lead to the server, --version and -h work, and a refusal's suggestion keeps what was
    typed before the command."""
    url, key = url_and_key
    file = tmp_path / "key"
    file.write_text(key)
    before = f"--url {url} --key-file={file}"
    assert terminal(f"{before} dataset create a --mu 1 --bound clt").status == 0
    refused = terminal(f"{before} request a --type gaussian --noise-multiplier 0.5")
    assert refused.status == 1
    suggested = next(line.strip() for line in refused.err.splitlines() if "    privacy-ledger" in line)
    assert suggested.startswith(f"privacy-ledger {before} request a")
    assert terminal(suggested).status == 0
    for line in ("--version", "-h", "runs -h", "dataset create -h"):
        said = terminal(line)
        assert (said.status, said.err) == (0, "")
        assert (__version__ if line == "--version" else "Usage:") in said.out
    file.write_text(f"{key}\n{key}\n")
    assert (terminal(f"{before} runs").status, key in terminal(f"{before} runs").err) == (2, False)


def test_who_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: command line, environment and profile are asked in this order, and a profile's key goes to no other server.
    Method: each combination; nothing is sent."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("LEDGER_URL", "LEDGER_KEY", "LEDGER_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    work, key_file = Profile("https://work.example", "pbl_work"), tmp_path / "k"
    key_file.write_text("pbl_file")
    profiles.keep("default", work)

    def chosen(**typed: object) -> Profile:
        profiles.TYPED.set(profiles.Typed(**typed))  # type: ignore[arg-type]
        return profiles.connection()

    assert chosen() == work
    assert chosen(key_file=key_file) == Profile(profiles.URL, "pbl_file")
    assert chosen(url="https://work.example/") == Profile("https://work.example/", "pbl_work")
    with pytest.raises(LedgerError, match=r"is for https://work\.example"):
        chosen(url="https://other.example")
    monkeypatch.setenv("LEDGER_URL", "https://other.example")
    with pytest.raises(LedgerError, match=r"is for https://work\.example"):
        chosen()
    monkeypatch.setenv("LEDGER_KEY", "pbl_env")
    assert chosen() == Profile("https://other.example", "pbl_env")
    assert chosen(profile="default") == work
    assert chosen(key_file=key_file, url="https://third.example") == Profile("https://third.example", "pbl_file")
    assert "pbl_" not in repr(work)
    profiles.TYPED.set(profiles.Typed())


def test_a_file_that_others_can_open_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: keys that others could read or change are not used, and a damaged file is named. Method: both."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file, _ = profiles.keep("default", Profile("https://a.example", "pbl_a"))
    file.chmod(0o640)
    with pytest.raises(LedgerError, match="chmod 600"):
        profiles.read("default")
    file.chmod(0o600)
    for wrong in ("", "[]", '{"profiles": {"a": {}}}', '{"profiles": []}'):
        file.write_text(wrong)
        with pytest.raises(LedgerError, match="is damaged"):
            profiles.read("default")
    file.unlink()
    with pytest.raises(LedgerError, match="is not a name"):
        profiles.keep("../x", Profile("https://a.example", "pbl_a"))


# --- exit statuses and JSON ------------------------------------------------------------------------------------------

NOBODY = "00000000-0000-4000-8000-000000000000"
STATUSES = [
    ("dataset create a --mu 1 --bound clt", 1, "name-taken"),
    ("request a --type gaussian --noise-multiplier 0.5", 1, "budget-exceeded"),
    ("request a --type gaussian --noise-multiplier=-5", 2, "invalid-mechanism"),
    ("request a --sigma 5", 2, "usage"),
    ("nonsense", 2, "usage"),
    ("--url http://127.0.0.1:1 runs", 3, "unreachable"),
    ("tenant create new", 4, "forbidden"),
    ("--key-file wrong runs", 4, "unauthenticated"),
    ("dataset show b", 5, "not-found"),
    (f"start {NOBODY}", 5, "not-found"),
    ("--profile nobody runs", 5, "not-found"),
    ("request frozen --type gaussian --noise-multiplier 50", 6, "dataset-frozen"),
    ("request guarded --type gaussian --noise-multiplier 2", 7, "run-waits"),
]


def test_every_failure_has_its_status_and_one_shape(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Goal: scripts tell failures apart by the exit status, and by one shape of JSON. Method: each status, for a person
    and with --json, whoever finds the error: the server, the client, or the parser of options."""
    monkeypatch.chdir(tmp_path)
    Path("wrong").write_text("pbl_wrong")
    terminal("dataset create a --mu 1 --bound clt")
    terminal("dataset create frozen --mu 1 --bound clt")
    terminal("dataset freeze frozen --reason look")
    terminal("dataset create guarded --mu 1 --bound clt")
    terminal("dataset fair-use guarded --waits-above 10 --reason look")
    for line, status, code in STATUSES:
        told = terminal(line)
        assert (told.status, told.out) == (status, ""), (line, told)
        assert told.err
        said = terminal(f"{line} --json")
        assert (said.status, said.json["code"], said.err) == (status, code, ""), (line, said)
        assert said.json["type"] == f"urn:privacy-ledger:problem:{code}"
        assert {"title", "detail"} <= set(said.json)
    assert {status for _, status, _ in STATUSES} == set(failing.STATUSES) - {0}
    assert "Did you mean --noise-multiplier?" in terminal("request a --sigma 5").err
    help_ = " ".join(terminal("--help").out.split())
    assert all(f"{status} {text.split()[0]}" in help_ for status, text in failing.STATUSES.items())


def test_lists_say_when_there_is_more(terminal: Terminal) -> None:
    """Goal: a cut list shows that it is cut. Method: a limit below, at and above the number of runs."""
    terminal("dataset create a --mu 1 --bound clt")
    for _ in range(2):
        terminal("request a --type gaussian --noise-multiplier 50")
    for limit, more in ((1, True), (2, False), (3, False)):
        said = terminal(f"runs --limit {limit} --json").json
        assert (len(said["items"]), said["more"]) == (min(limit, 2), more)
        assert ("--limit 2" in terminal(f"runs --limit {limit}").err) == more
    for line in ("dataset list", "key list", "proposal list", "alerts"):
        answer = json.loads(terminal(f"{line} --json").out)
        assert set(answer) == {"items", "more"}
        assert answer["more"] is False


def test_without_the_package_keyring_the_file_has_the_key(
    terminal: Terminal, url_and_key: tuple[str, str], tmp_path: Path
) -> None:
    """Goal: without the optional package, the file has the key, as with --no-keyring; a profile whose key another
    installation put into the keyring is an error with what to do. Method: this environment, which has no keyring."""
    assert importlib.util.find_spec("keyring") is None
    url, key = url_and_key
    keys = tmp_path / "key"
    keys.write_text(key)
    file = profiles.file_of_profiles()
    for option in ("", " --no-keyring"):
        kept = terminal(f"login --url {url} --key-file {keys} --json{option}")
        assert (kept.status, kept.json["in_keyring"]) == (0, False)
        assert kept.json["file"] == str(file)
        assert json.loads(file.read_text()) == {"profiles": {"default": {"url": url, "key": key}}}
    file.write_text(json.dumps({"profiles": {"default": {"url": url, "in_keyring": True}}}))
    refused = terminal("whoami")
    assert refused.status != 0
    assert "pip install 'privacy-ledger[keyring]'" in refused.err
    assert "privacy-ledger login --no-keyring" in refused.err
    assert terminal("logout").status == 0
    assert profiles.names() == []
