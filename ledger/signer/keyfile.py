"""The key that this ledger signs with: where it is kept, how it is made, and how another one takes its place.

The private key is never in the database that its signatures protect. It comes from a secret store (LEDGER_SIGNING_KEY)
or from a file (LEDGER_SIGNING_KEY_FILE); with SQLite and nothing said, from a file beside the database, made by `init`
or by the first `serve`. The public keys that were signed with before are in a JWK set beside it, so that what they
signed stays verifiable.

A key's file is made under another name and linked into place, so that nobody ever reads half of one, and of several
processes that begin at once all take the one that came first.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.errors import Conflict, Misconfigured
from ledger.settings import Settings
from ledger.verifier.jws import KEYS_MAX, PublicKeys, SignatureInvalid, SigningKey, sign

log = logging.getLogger(__name__)

PEM_BYTES_MAX: Final = 16 * 1024
JWKS_BYTES_MAX: Final = 1024 * 1024
_PUBLIC: Final = ("kty", "crv", "x", "kid", "use", "alg")
_HOW: Final = (
    "Set LEDGER_SIGNING_KEY_FILE to a file of the server's own and say `privacy-ledger signing-key create`, or"
    " LEDGER_SIGNING_KEY to what `privacy-ledger signing-key create --output -` prints, kept in a secret store."
)


class KeyThere(Conflict):
    """There is a signing key already."""

    code = "signing-key-there"


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """Signs with the current key, and says by which keys that and what was signed before can be checked."""

    _key: SigningKey
    _retired: tuple[dict[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Signer({self.kid})"

    @property
    def kid(self) -> str:
        return self._key.kid

    def sign(self, payload: str, typ: str) -> str:
        """The compact JWS of a payload, the canonical text of a JSON object, as a statement of this `typ`."""
        return sign(payload, key=self._key, typ=typ)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """The public keys as a JWK set: the current one first, then those that were retired."""
        return {"keys": [self._key.public_jwk(), *(jwk for jwk in self._retired if jwk["kid"] != self.kid)]}

    def public_keys(self) -> PublicKeys:
        """The same, to check something with."""
        return PublicKeys.of(self.jwks())


@dataclass(frozen=True, slots=True)
class Places:
    """Where settings keep the key and the public keys before it. file: None where the key is in LEDGER_SIGNING_KEY.

    is_default: the file is the one beside an SQLite database that nobody named, which `serve` may make.
    """

    file: Path | None
    retired: Path | None
    is_default: bool
    is_retired_named: bool


def places_of(settings: Settings) -> Places:
    """Where the key is to be. Raises Misconfigured, saying what to do, where nothing says it."""
    named, file = settings.retired_keys_file, settings.signing_key_file
    if _text(settings) is not None:
        if file is not None:
            raise Misconfigured("LEDGER_SIGNING_KEY and LEDGER_SIGNING_KEY_FILE are both set: set one of them.")
        return Places(None, named, is_default=False, is_retired_named=named is not None)
    is_default = file is None
    if file is None:
        file = _beside(settings)
    return Places(file, named or file.with_suffix(".retired.json"), is_default, is_retired_named=named is not None)


def _text(settings: Settings) -> str | None:
    """The key that a setting is, if one is. What stores keep in one line has its line ends as \\n."""
    text = "" if settings.signing_key is None else settings.signing_key.get_secret_value().replace("\\n", "\n")
    return text if text.strip() else None


def _beside(settings: Settings) -> Path:
    if not settings.is_sqlite:
        raise Misconfigured(f"There is no key to sign receipts with, and none is ever kept in the database.\n{_HOW}")
    if (path := settings.sqlite_file) is not None:
        return path.with_name(f"{path.name}.signing-key.pem")
    raise Misconfigured(f"LEDGER_DATABASE_URL names no plain file that a signing key could stand beside.\n{_HOW}")


# --- at the start ----------------------------------------------------------------------------------------------------


def signer_for(settings: Settings) -> Signer:
    """What a server signs with. The file beside an SQLite database is made where it is missing; no other one ever is.

    Raises Misconfigured, saying what to do, and never showing any of the key.
    """
    places = places_of(settings)
    if (text := _text(settings)) is not None:
        return Signer(_from_pem(text, "LEDGER_SIGNING_KEY"), _retired(places))
    if places.file is None:
        raise TypeError("neither a key nor its file")
    if places.is_default:
        _make_missing(places.file)
    return Signer(_read_key(places), _retired(places))


def published(settings: Settings) -> dict[str, list[dict[str, str]]]:
    """The key set that a server with these settings publishes; nothing is made. Raises Misconfigured."""
    places = places_of(settings)
    if places.file is None:
        return signer_for(settings).jwks()
    return Signer(_read_key(places), _retired(places)).jwks()


def ensure(settings: Settings) -> None:
    """For `init`: makes the key where a file is to have it and has not. Raises Misconfigured.

    On PostgreSQL with nothing said it makes none: there is no place for it.
    """
    if _text(settings) is not None or (settings.signing_key_file is None and not settings.is_sqlite):
        return
    places = places_of(settings)
    if places.file is not None:
        _make_missing(places.file)


def create(path: Path) -> SigningKey:
    """A new key in a new file. Raises KeyThere where there is one, and Misconfigured."""
    key = SigningKey.generate()
    if not _put_new(path, key.pem()):
        raise KeyThere(f"{path} is there already. To put another key in its place: privacy-ledger signing-key rotate")
    return key


def rotate(settings: Settings) -> tuple[SigningKey, SigningKey]:
    """Puts a new key in the place of the one in the file, whose public part joins the retired ones: the old, the new.

    The old key is among the retired ones before the new one is in place, so that whatever happens in between, every key
    that was ever signed with is in the set. Servers that run go on with the old one until they are started again.
    """
    places = places_of(settings)
    if places.file is None or places.retired is None:
        raise Misconfigured(
            "The signing key is in LEDGER_SIGNING_KEY, which is not this command's to change: put a new one there, and"
            " the public part of the old one (privacy-ledger signing-key show) into LEDGER_RETIRED_KEYS_FILE."
        )
    if places.file.is_symlink():
        raise Misconfigured(f"{places.file} is a link to what something else keeps: make the new key there.")
    with _alone(places.file.parent):
        old = _read_key(places)
        retired = {jwk["kid"]: jwk for jwk in _retired(places, may_be_missing=True)} | {old.kid: old.public_jwk()}
        if len(retired) >= KEYS_MAX:
            raise Misconfigured(f"{places.retired} has {KEYS_MAX} keys, which is as many as anyone reads.")
        new = SigningKey.generate()
        _replace(places.retired, json.dumps({"keys": list(retired.values())}, indent=2) + "\n", mode=0o644)
        _replace(places.file, new.pem(), mode=0o600)
    return old, new


# --- files -----------------------------------------------------------------------------------------------------------


def _make_missing(path: Path) -> None:
    """Makes a key's file unless there is one. Raises Misconfigured."""
    if not os.path.lexists(path) and _put_new(path, (key := SigningKey.generate()).pem()):
        log.info(
            "made the signing key %s in %s: keep it as you keep passwords, and apart from the database", key.kid, path
        )


def _put_new(path: Path, text: str) -> bool:
    """Makes a whole file of this text that nobody else can read; False where there is something of that name."""
    with _failing(path), _beside_as(path, text, mode=0o600) as made:
        try:
            os.link(made, path, follow_symlinks=False)
        except FileExistsError:
            return False
        _settle(path.parent)
    return True


def _replace(path: Path, text: str, *, mode: int) -> None:
    """Puts a whole file in the place of another, at once."""
    with _failing(path), _beside_as(path, text, mode=mode) as made:
        made.replace(path)
        _settle(path.parent)


@contextlib.contextmanager
def _beside_as(path: Path, text: str, *, mode: int) -> Iterator[Path]:
    """A file with this text in the same folder, under a name of its own for as long as it takes, and on disk."""
    made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    opened = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        yield made
    finally:
        made.unlink(missing_ok=True)


def _settle(folder: Path) -> None:
    """Has the names in a folder on disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time."""
    with _failing(folder):
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


@contextlib.contextmanager
def _failing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}.") from None


def _read_key(places: Places) -> SigningKey:
    """The key of a file that nobody else can read. Raises Misconfigured."""
    path = places.file
    if path is None:
        raise TypeError("no file")
    # One that was named may be a link, as mounted secrets are; the one beside the database is made here, and is none.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if places.is_default else 0)
    try:
        opened = os.open(path, flags)
    except FileNotFoundError:
        raise Misconfigured(
            f"LEDGER_SIGNING_KEY_FILE: there is no {path}. Make it: privacy-ledger signing-key create"
        ) from None
    except OSError as error:
        reason = "is a link, and not the file that this ledger made" if error.errno == errno.ELOOP else error.strerror
        raise Misconfigured(f"The signing key {path} cannot be read: {reason}.") from None
    try:
        _demand_private(path, os.fstat(opened))
        raw = os.read(opened, PEM_BYTES_MAX)
    finally:
        os.close(opened)
    try:
        return _from_pem(raw.decode("ascii"), str(path))
    except UnicodeDecodeError:
        raise Misconfigured(f"{path}: The signing key is not PEM text.") from None


def _demand_private(path: Path, status: os.stat_result) -> None:
    """Raises Misconfigured unless the file is this user's alone, or root's with at most its group let in: so mounted
    secrets are, and so PostgreSQL takes its server's key."""
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"The signing key {path} is not a file.")
    mode = stat.S_IMODE(status.st_mode)
    is_private = not mode & 0o077 if status.st_uid == os.geteuid() else status.st_uid == 0 and not mode & 0o037
    if not is_private:
        raise Misconfigured(
            f"The signing key {path} is open to others (mode {mode:04o}, of user {status.st_uid}). If nobody else had"
            f" it yet: chmod 600 {path}. Otherwise also: privacy-ledger signing-key rotate"
        )


def _from_pem(text: str, where: str) -> SigningKey:
    try:
        return SigningKey.from_pem(text)
    except Misconfigured as error:
        raise Misconfigured(f"{where}: {error.detail}") from None


def _retired(places: Places, *, may_be_missing: bool = False) -> tuple[dict[str, str], ...]:
    """The public keys that were signed with before. Raises Misconfigured."""
    path = places.retired
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            raw = file.read(JWKS_BYTES_MAX + 1)
    except FileNotFoundError:
        if places.is_retired_named and not may_be_missing:
            raise Misconfigured(
                f'LEDGER_RETIRED_KEYS_FILE: there is no {path}. Where no key was retired yet, it says {{"keys": []}}.'
            ) from None
        return ()
    except OSError as error:
        raise Misconfigured(f"The retired keys {path} cannot be read: {error.strerror}.") from None
    return _public_keys(raw, path)


def _public_keys(raw: bytes, path: Path) -> tuple[dict[str, str], ...]:
    try:
        jwks: Any = json.loads(raw) if len(raw) <= JWKS_BYTES_MAX else None
        if jwks == {"keys": []}:
            return ()
        known = PublicKeys.of(jwks).kids
    except (ValueError, RecursionError):
        raise Misconfigured(f"The retired keys {path} are not JSON.") from None
    except SignatureInvalid as error:
        raise Misconfigured(f"The retired keys {path}: {error.detail}") from None
    full = {"use": "sig", "alg": "EdDSA"}
    by_kid = {jwk.get("kid"): {**full, **jwk} for jwk in jwks["keys"]}
    return tuple({name: by_kid[kid][name] for name in _PUBLIC} for kid in by_kid if kid in known)
