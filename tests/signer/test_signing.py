"""The key that a ledger signs with: where it comes from, who can read it, and how another takes its place."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ledger.api.app import create_app
from ledger.errors import Misconfigured
from ledger.settings import Settings
from ledger.signer.keyfile import Signer, create, ensure, published, rotate, signer_for
from ledger.store.tables import metadata
from ledger.verifier.jws import RECEIPT, PublicKeys, SigningKey, read
from tests.conftest import Templates
from tests.kit.driver import Ledger, Terminal, environment, first_keys, past_the_ledger, serve

POSTGRESQL = SecretStr("postgresql://ledger:x@127.0.0.1:1/ledger")


def sqlite(folder: Path, **more: Any) -> Settings:
    """A ledger in this folder."""
    return Settings(database_url=SecretStr(f"sqlite:///{folder / 'ledger.db'}"), **more)


def mode_of(path: Path) -> int:
    """The rights of a file itself."""
    return stat.S_IMODE(path.lstat().st_mode)


def kids(signer: Signer) -> list[str]:
    """The keys that a signer publishes, in order."""
    return [key["kid"] for key in signer.jwks()["keys"]]


# --- where it comes from ---------------------------------------------------------------------------------------------


def test_sqlite_has_its_key_beside_it(tmp_path: Path) -> None:
    """Goal: with nothing said, a ledger on SQLite signs with a key of its own, the same at every start, that nobody
    else can read; the key set has no private part."""
    old = os.umask(0)
    try:
        first = signer_for(sqlite(tmp_path))
    finally:
        os.umask(old)
    file = tmp_path / "ledger.db.signing-key.pem"
    assert mode_of(file) == 0o600
    assert signer_for(sqlite(tmp_path)).kid == first.kid == SigningKey.from_pem(file.read_text()).kid
    assert [set(key) for key in first.jwks()["keys"]] == [{"kty", "crv", "x", "kid", "use", "alg"}]
    assert [path.name for path in tmp_path.iterdir()] == [file.name], "nothing half made is left"
    assert "PRIVATE" not in repr(first)
    assert read(first.sign('{"v":1}', RECEIPT), keys=first.public_keys(), typ=RECEIPT) == {"v": 1}


def test_a_key_from_a_secret_store(tmp_path: Path) -> None:
    """Goal: the key's text itself, also in one line, and nothing is written; both settings at once are a mistake."""
    key = SigningKey.generate()
    for text in (key.pem(), key.pem().replace("\n", "\\n")):
        found = signer_for(Settings(database_url=POSTGRESQL, signing_key=SecretStr(text)))
        assert found.kid == key.kid
    assert list(tmp_path.iterdir()) == []
    both = sqlite(tmp_path, signing_key=SecretStr(key.pem()), signing_key_file=tmp_path / "k.pem")
    with pytest.raises(Misconfigured, match="both set"):
        signer_for(both)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true"])
def test_urls_that_no_file_can_stand_beside(url: str) -> None:
    """Goal: where nobody can tell where the key should be, that is said, and what to set."""
    with pytest.raises(Misconfigured, match="LEDGER_SIGNING_KEY_FILE"):
        signer_for(Settings(database_url=SecretStr(url)))


def test_postgresql_without_a_key(tmp_path: Path) -> None:
    """Goal: a server that could not sign does not begin, and says exactly what to do; that works."""
    with pytest.raises(Misconfigured) as caught:
        create_app(Settings(database_url=POSTGRESQL))
    for words in ("LEDGER_SIGNING_KEY_FILE", "privacy-ledger signing-key create", "LEDGER_SIGNING_KEY ", "--output -"):
        assert words in str(caught.value)
    ensure(Settings(database_url=POSTGRESQL))  # init: there is no place for one, and the first keys are still needed
    assert list(tmp_path.iterdir()) == []
    named = Settings(database_url=POSTGRESQL, signing_key_file=tmp_path / "key.pem")
    with pytest.raises(Misconfigured, match="signing-key create"):
        signer_for(named)
    ensure(named)
    ensure(named)
    assert signer_for(named).kid == SigningKey.from_pem((tmp_path / "key.pem").read_text()).kid


def test_a_named_file_is_never_made_by_a_server(tmp_path: Path) -> None:
    """Goal: a mistyped path does not give a ledger a new identity."""
    with pytest.raises(Misconfigured, match="there is no"):
        signer_for(sqlite(tmp_path, signing_key_file=tmp_path / "typo.pem"))
    with pytest.raises(Misconfigured, match="LEDGER_RETIRED_KEYS_FILE"):
        signer_for(sqlite(tmp_path, retired_keys_file=tmp_path / "typo.json"))
    assert not (tmp_path / "typo.pem").exists()


# --- who can read it -------------------------------------------------------------------------------------------------


def opened(path: Path, mode: int) -> None:
    """Gives a file these rights."""
    path.chmod(mode)


def linked(path: Path) -> None:
    """Puts the file elsewhere, and a link in its place."""
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def dangling(path: Path) -> None:
    """A link to what is not there."""
    path.unlink()
    path.symlink_to(path.with_suffix(".nowhere"))


def a_pipe(path: Path) -> None:
    """What never ends, in a file's place."""
    path.unlink()
    os.mkfifo(path, 0o600)


def a_folder(path: Path) -> None:
    """A folder, in a file's place."""
    path.unlink()
    path.mkdir(0o700)


UNFIT: dict[str, tuple[Callable[[Path], object], str]] = {
    "its group can read it": (lambda path: opened(path, 0o640), "chmod 600"),
    "its group can write it": (lambda path: opened(path, 0o620), "chmod 600"),
    "all can read it": (lambda path: opened(path, 0o604), "chmod 600"),
    "a link": (linked, "link"),
    "a link to nothing": (dangling, "link"),
    "a pipe": (a_pipe, "not a file"),
    "a folder": (a_folder, "not a file"),
    "nothing in it": (lambda path: path.write_bytes(b""), "not an Ed25519"),
    "no text": (lambda path: path.write_bytes(b"\xff\x00"), "not PEM"),
    "far too much": (lambda path: path.write_bytes(b"A" * 10_000_000), "not an Ed25519"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_files_that_are_not_taken(tmp_path: Path, case: str) -> None:
    """Goal: a key that others may have, or that something else was put in the place of, signs nothing; nothing is
    written where a link leads. Method: the file beside the database, spoilt in each way."""
    settings = sqlite(tmp_path)
    signer_for(settings)
    spoil, said = UNFIT[case]
    spoil(tmp_path / "ledger.db.signing-key.pem")
    with pytest.raises(Misconfigured, match=said):
        signer_for(settings)
    assert not (tmp_path / "ledger.db.signing-key.nowhere").exists()


def test_a_mounted_secret_is_a_link(tmp_path: Path) -> None:
    """Goal: a file that was named may be a link, as Kubernetes mounts secrets; what it leads to has to be private."""
    create(tmp_path / "real.pem")
    (tmp_path / "key.pem").symlink_to(tmp_path / "real.pem")
    settings = sqlite(tmp_path, signing_key_file=tmp_path / "key.pem")
    signer_for(settings)
    with pytest.raises(Misconfigured, match="link"):
        rotate(settings)
    (tmp_path / "real.pem").chmod(0o644)
    with pytest.raises(Misconfigured, match="chmod 600"):
        signer_for(settings)


def test_root_s_file_for_a_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a secret of root's that the server's group may read is taken, as it is mounted; another user's is not."""
    file = tmp_path / "key.pem"
    create(file)
    settings = sqlite(tmp_path, signing_key_file=file)
    me = os.geteuid()
    found = file.stat()

    def owned(uid: int, mode: int) -> Callable[[int], os.stat_result]:
        return lambda _: os.stat_result((stat.S_IFREG | mode, *found[1:4], uid, *found[5:]))

    for uid, mode, is_good in ((0, 0o440, True), (0, 0o444, False), (me + 1, 0o600, False)):
        with monkeypatch.context() as patched:
            patched.setattr("ledger.signer.keyfile.os.geteuid", lambda: me + 2)
            patched.setattr("ledger.signer.keyfile.os.fstat", owned(uid, mode))
            if is_good:
                signer_for(settings)
            else:
                with pytest.raises(Misconfigured, match="Others can read or change"):
                    signer_for(settings)


def test_many_begin_at_once(tmp_path: Path) -> None:
    """Goal: whoever begins first makes the key, whole, and all others take that one. Method: sixteen threads let go
    at the same moment, ten times; then three processes."""
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        gate = threading.Barrier(16)
        found: list[str] = []

        def begin(folder: Path = folder, gate: threading.Barrier = gate, found: list[str] = found) -> None:
            gate.wait()
            found.append(signer_for(sqlite(folder)).kid)

        threads = [threading.Thread(target=begin) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 16
        assert len(set(found)) == 1
        assert [path.name for path in folder.iterdir()] == ["ledger.db.signing-key.pem"]
    code = (
        "from ledger import settings; from ledger.signer import keyfile; print(keyfile.signer_for(settings.load()).kid)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=environment(sqlite(tmp_path)), stdout=subprocess.PIPE
        )
        for _ in range(3)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    assert [process.returncode for process in started] == [0] * 3


# --- another key -----------------------------------------------------------------------------------------------------


def test_rotation(tmp_path: Path) -> None:
    """Goal: a new key signs, what the old ones signed is still verified, and each is in the set once."""
    settings = sqlite(tmp_path)
    signers = [signer_for(settings)]
    for _ in range(3):
        rotate(settings)
        signers.append(signer_for(settings))
    assert kids(signers[-1]) == [signers[-1].kid, *(signer.kid for signer in signers[:-1])]
    keys = PublicKeys.of(signers[-1].jwks())
    for number, signer in enumerate(signers):
        assert read(signer.sign(f'{{"n":{number}}}', RECEIPT), keys=keys, typ=RECEIPT) == {"n": number}
    assert mode_of(tmp_path / "ledger.db.signing-key.pem") == 0o600
    retired = tmp_path / "ledger.db.signing-key.retired.json"
    assert mode_of(retired) == 0o644
    assert '"d"' not in retired.read_text()
    assert published(settings) == signers[-1].jwks()


@pytest.mark.parametrize("steps", range(12))
def test_a_rotation_that_breaks_off(tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: at whatever step a rotation ends, there is one whole key, and every key that ever signed is in the set.
    Method: the power goes at the n-th of the calls that change the file system, and what was cleaned up after that
    stays; then it is done again."""
    settings = sqlite(tmp_path)
    before = signer_for(settings)
    left = iter(range(steps))

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **more: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return real(*args, **more)

        return call

    with monkeypatch.context() as patched:
        for name in ("open", "fsync"):
            patched.setattr(f"ledger.signer.keyfile.os.{name}", counted(getattr(os, name)))
        patched.setattr(Path, "replace", counted(Path.replace))
        patched.setattr(Path, "unlink", lambda *_args, **_more: None)
        with pytest.raises(KeyboardInterrupt):
            rotate(settings)
    after = signer_for(settings)
    assert before.kid in kids(after)
    assert len(set(kids(after))) == len(kids(after))
    rotate(settings)
    last = signer_for(settings)
    assert {before.kid, after.kid, last.kid} <= set(kids(last))
    assert last.kid not in (before.kid, after.kid)


def test_rotations_at_once(tmp_path: Path) -> None:
    """Goal: no key is lost where several people rotate at the same time. Method: eight threads; each key that any of
    them was told of is in the set at the end."""
    settings = sqlite(tmp_path)
    first = signer_for(settings)
    told: list[str] = []
    threads = [threading.Thread(target=lambda: told.append(rotate(settings)[1].kid)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(kids(signer_for(settings))) == sorted({first.kid, *told})
    assert len(set(told)) == 8


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"keys": [{"kty": "RSA"}]}', "private", '{"keys": 5}', '{"keys": [], "keys": [1]}']
)
def test_retired_keys_that_are_none(tmp_path: Path, text: str) -> None:
    """Goal: a spoilt set of retired keys is said before a server publishes it; a private key in it above all."""
    settings = sqlite(tmp_path)
    signer = signer_for(settings)
    if text == "private":
        text = json.dumps({"keys": [{**signer.jwks()["keys"][0], "d": "x"}]})
    (tmp_path / "ledger.db.signing-key.retired.json").write_text(text)
    with pytest.raises(Misconfigured, match="retired keys"):
        signer_for(settings)


# --- with a ledger ---------------------------------------------------------------------------------------------------


def test_the_private_key_is_nowhere_else(database: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: the key never comes into the database, the log, or an answer. Method: a run's whole life, then every row of
    every table and every line and answer are searched for any line of the key's text."""
    caplog.set_level(logging.DEBUG)
    with Ledger.open(database) as ledger:
        ledger.register()
        run = ledger.ask()
        said = [run.text]
        said += [ledger.post(f"/v1/runs/{run.json()['id']}/{path}").text for path in ("start", "settle")]
        said += [ledger.get(path).text for path in ("/.well-known/jwks.json", f"/v1/runs/{run.json()['id']}/receipt")]
        kid = ledger.client.app.state.services.signer.kid
    pem = (
        database.signing_key.get_secret_value()
        if database.signing_key is not None
        else (tmp_path / "ledger.db.signing-key.pem").read_text()
    )
    assert SigningKey.from_pem(pem).kid == kid
    secret = pem.splitlines()[1][-32:]
    engine = past_the_ledger(database)
    with engine.begin() as connection:
        said += [str(row) for table in metadata.sorted_tables for row in connection.execute(table.select())]
    engine.dispose()
    said += [caplog.text, repr(database), str(database)]
    assert len(said) > 10
    assert not [text for text in said if secret in text or "PRIVATE KEY" in text]
    if database.is_sqlite:
        for file in tmp_path.glob("ledger.db*"):
            assert "signing-key" in file.name or secret.encode() not in file.read_bytes()


def test_a_ledger_from_before_gets_its_key(templates: Templates, tmp_path: Path) -> None:
    """Goal: a ledger that an older version set up serves as before, and from its first start on has a key. Method: a
    database with its first keys and no file beside it; a real server, and whatever begins after it."""
    with templates.clone("sqlite", tmp_path) as settings:
        first_keys(settings)
        with serve(settings, tmp_path) as served, served.client() as client:
            answer = client.get("/.well-known/jwks.json")
            assert answer.headers["cache-control"] == "public, max-age=300"
        assert "PRIVATE" not in "".join(served.said)
        assert answer.json() == signer_for(settings).jwks()
        assert mode_of(tmp_path / "ledger.db.signing-key.pem") == 0o600


def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Goal: the key is made, shown and rotated in its file, with no database; nothing goes over a key that is there."""
    terminal = Terminal(monkeypatch, capfd)
    monkeypatch.setenv("LEDGER_DATABASE_URL", POSTGRESQL.get_secret_value())
    monkeypatch.setenv("LEDGER_SIGNING_KEY_FILE", "key.pem")
    assert terminal("signing-key show").status == 2
    kid = terminal("signing-key create --json").json["kid"]
    again = terminal("signing-key create")
    assert (again.status, "signing-key rotate" in again.err) == (1, True)
    rotated = terminal("signing-key rotate")
    assert (rotated.status, kid in rotated.out) == (0, True), rotated.err
    assert [key["kid"] for key in terminal("signing-key show --json").json["keys"]][1:] == [kid]
    table = terminal("signing-key show").out
    assert "signs now" in table
    assert "retired" in table
    printed = terminal("signing-key create --output -").out
    monkeypatch.delenv("LEDGER_SIGNING_KEY_FILE")
    monkeypatch.setenv("LEDGER_SIGNING_KEY", printed)
    shown = terminal("signing-key show --json").json["keys"]
    assert [key["kid"] for key in shown] == [SigningKey.from_pem(printed).kid]
    refused = terminal("signing-key rotate")
    assert (refused.status, "LEDGER_RETIRED_KEYS_FILE" in refused.err) == (2, True)
    assert terminal("signing-key create").status == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pem", "key.retired.json"]
