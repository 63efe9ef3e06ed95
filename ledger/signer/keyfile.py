"""The signing key of the ledger: where it is kept, how it is created, and how it is rotated.

The private key is never in the database that its signatures protect. It comes from a secret store (LEDGER_SIGNING_KEY)
or from a file (LEDGER_SIGNING_KEY_FILE). With SQLite the default is a file next to the database, which `init` or the
first `serve` creates. Earlier public keys are in a JWK set next to it, so that what they signed stays verifiable.

The file of a key is created under another name and then linked into place. So nobody reads half a file, and several
processes that start at once all use the same key.
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
from ledger.verifier import dsse
from ledger.verifier.jws import KEYS_MAX, PublicKeys, SignatureInvalid, SigningKey, sign

log = logging.getLogger(__name__)

PEM_BYTES_MAX: Final = 16 * 1024
JWKS_BYTES_MAX: Final = 1024 * 1024
_PUBLIC: Final = ("kty", "crv", "x", "kid", "use", "alg")
_HOW: Final = (
    "Set LEDGER_SIGNING_KEY_FILE to a file that only the server can read, and run `privacy-ledger signing-key create`."
    " Or set LEDGER_SIGNING_KEY to what `privacy-ledger signing-key create --output -` prints, kept in a secret store."
)


class KeyThere(Conflict):
    """A signing key exists already."""

    code = "signing-key-there"


@dataclass(frozen=True, slots=True, repr=False)
class Signer:
    """Sign with the current key, and list the public keys, current and retired."""

    _key: SigningKey
    _retired: tuple[dict[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Signer({self.kid})"

    @property
    def kid(self) -> str:
        return self._key.kid

    def sign(self, payload: str, typ: str) -> str:
        """Return the compact JWS of a payload, the canonical text of a JSON object, with this `typ`."""
        return sign(payload, key=self._key, typ=typ)

    def sign_statement(self, payload: str) -> dsse.Envelope:
        """Return the envelope of an in-toto statement, the canonical text of a JSON object."""
        return dsse.sign(payload, key=self._key)

    def jwks(self) -> dict[str, list[dict[str, str]]]:
        """Return the public keys as a JWK set: the current one first, then the retired ones."""
        return {"keys": [self._key.public_jwk(), *(jwk for jwk in self._retired if jwk["kid"] != self.kid)]}

    def public_keys(self) -> PublicKeys:
        """Return the public keys, to verify with."""
        return PublicKeys.of(self.jwks())


@dataclass(frozen=True, slots=True)
class Places:
    """The files of the key and of the retired public keys. file: None if the key is in LEDGER_SIGNING_KEY.

    is_default: the file is the default one next to an SQLite database, which `serve` may create.
    """

    file: Path | None
    retired: Path | None
    is_default: bool
    is_retired_named: bool


def places_of(settings: Settings) -> Places:
    """Return where the settings keep the key. Raises Misconfigured, with what to do, if they do not name a place."""
    named, file = settings.retired_keys_file, settings.signing_key_file
    if _text(settings) is not None:
        if file is not None:
            raise Misconfigured("LEDGER_SIGNING_KEY and LEDGER_SIGNING_KEY_FILE are both set. Unset one of them.")
        return Places(None, named, is_default=False, is_retired_named=named is not None)
    is_default = file is None
    if file is None:
        file = _beside(settings)
    return Places(file, named or file.with_suffix(".retired.json"), is_default, is_retired_named=named is not None)


def _text(settings: Settings) -> str | None:
    """Return the key in the setting, if there is one. Secret stores may write its line ends as \\n."""
    text = "" if settings.signing_key is None else settings.signing_key.get_secret_value().replace("\\n", "\n")
    return text if text.strip() else None


def _beside(settings: Settings) -> Path:
    if not settings.is_sqlite:
        raise Misconfigured(f"The signing key is missing. It is never kept in the database.\n{_HOW}")
    if (path := settings.sqlite_file) is not None:
        return path.with_name(f"{path.name}.signing-key.pem")
    raise Misconfigured(
        f"LEDGER_DATABASE_URL is not a plain file, so there is no default file for the signing key.\n{_HOW}"
    )


# --- at the start ----------------------------------------------------------------------------------------------------


def signer_for(settings: Settings) -> Signer:
    """Return the server's signer. A missing file next to an SQLite database is created; no other file ever is.

    Raises Misconfigured, with what to do, and never with any part of the key.
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
    """Return the key set that a server with these settings publishes. Creates nothing. Raises Misconfigured."""
    places = places_of(settings)
    if places.file is None:
        return signer_for(settings).jwks()
    return Signer(_read_key(places), _retired(places)).jwks()


def ensure(settings: Settings) -> None:
    """Create the key for `init`, if a file is set and missing. Raises Misconfigured.

    On PostgreSQL without a setting it creates none: there is no default place.
    """
    if _text(settings) is not None or (settings.signing_key_file is None and not settings.is_sqlite):
        return
    places = places_of(settings)
    if places.file is not None:
        _make_missing(places.file)


def create(path: Path) -> SigningKey:
    """Create a key in a new file. Raises KeyThere if it exists, and Misconfigured."""
    key = SigningKey.generate()
    if not _put_new(path, key.pem()):
        raise KeyThere(f"{path} exists already. To replace the key: privacy-ledger signing-key rotate")
    return key


def rotate(settings: Settings) -> tuple[SigningKey, SigningKey]:
    """Replace the key in the file, and add the public part of the old one to the retired keys. Return old and new.

    The old key is among the retired ones before the new one is in place. So if this is interrupted, every key that ever
    signed is still in the set. Running servers use the old key until they are restarted.
    Raises Misconfigured if the key is not in a plain file, or if the retired keys are too many.
    """
    places = places_of(settings)
    if places.file is None or places.retired is None:
        raise Misconfigured(
            "The signing key is in LEDGER_SIGNING_KEY, which this command cannot change. Put the public part of the old"
            " key (privacy-ledger signing-key show --json) into LEDGER_RETIRED_KEYS_FILE, and a new key"
            " (privacy-ledger signing-key create --output -) into LEDGER_SIGNING_KEY."
        )
    if places.file.is_symlink():
        raise Misconfigured(f"{places.file} is a link to a file that something else manages. Create the new key there.")
    with _alone(places.file.parent):
        old = _read_key(places)
        retired = {jwk["kid"]: jwk for jwk in _retired(places, may_be_missing=True)} | {old.kid: old.public_jwk()}
        if len(retired) >= KEYS_MAX:
            raise Misconfigured(
                f"{places.retired} has {KEYS_MAX} keys, the most that clients read. Remove keys that nobody needs."
            )
        new = SigningKey.generate()
        _replace(places.retired, json.dumps({"keys": list(retired.values())}, indent=2) + "\n", mode=0o644)
        _replace(places.file, new.pem(), mode=0o600)
    return old, new


# --- files -----------------------------------------------------------------------------------------------------------


def _make_missing(path: Path) -> None:
    """Create a key's file if there is none. Raises Misconfigured."""
    if not os.path.lexists(path) and _put_new(path, (key := SigningKey.generate()).pem()):
        log.info(
            "created the signing key %s in %s: keep it like a password, and apart from the database", key.kid, path
        )


def _put_new(path: Path, text: str) -> bool:
    """Create a file with this text that nobody else can read. Return False if the name exists."""
    with _failing(path), _beside_as(path, text, mode=0o600) as made:
        try:
            os.link(made, path, follow_symlinks=False)
        except FileExistsError:
            return False
        _settle(path.parent)
    return True


def _replace(path: Path, text: str, *, mode: int) -> None:
    """Replace a file atomically."""
    with _failing(path), _beside_as(path, text, mode=mode) as made:
        made.replace(path)
        _settle(path.parent)


@contextlib.contextmanager
def _beside_as(path: Path, text: str, *, mode: int) -> Iterator[Path]:
    """Write the text to a temporary file in the same folder, and wait until it is on disk."""
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
    """Wait until the names in a folder are on disk."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time in."""
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
    """Read the key of a file that nobody else can read. Raises Misconfigured."""
    path = places.file
    if path is None:
        raise TypeError("no file")
    # A file that the settings name may be a link, as mounted secrets are; the default file never is.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if places.is_default else 0)
    try:
        opened = os.open(path, flags)
    except FileNotFoundError:
        raise Misconfigured(
            f"LEDGER_SIGNING_KEY_FILE: there is no {path}. Create it: privacy-ledger signing-key create"
        ) from None
    except OSError as error:
        reason = "is a link, not the file that this ledger created" if error.errno == errno.ELOOP else error.strerror
        raise Misconfigured(f"The signing key {path} cannot be read: {reason}.") from None
    try:
        _demand_private(path, os.fstat(opened))
        raw = os.read(opened, PEM_BYTES_MAX)
    finally:
        os.close(opened)
    try:
        return _from_pem(raw.decode("ascii"), str(path))
    except UnicodeDecodeError:
        raise Misconfigured(f"{path}: the signing key is not PEM text.") from None


def _demand_private(path: Path, status: os.stat_result) -> None:
    """Raise Misconfigured unless only this user can read the file, or it is root's and at most its group can read it:
    mounted secrets are like that, and PostgreSQL has the same rule for its key."""
    if not stat.S_ISREG(status.st_mode):
        raise Misconfigured(f"The signing key {path} is not a file.")
    mode = stat.S_IMODE(status.st_mode)
    is_private = not mode & 0o077 if status.st_uid == os.geteuid() else status.st_uid == 0 and not mode & 0o037
    if not is_private:
        raise Misconfigured(
            f"Others can read or change the signing key {path} (mode {mode:04o}, of user {status.st_uid}). Close it:"
            f" chmod 600 {path}. If somebody may have read it, then also: privacy-ledger signing-key rotate"
        )


def _from_pem(text: str, where: str) -> SigningKey:
    try:
        return SigningKey.from_pem(text)
    except Misconfigured as error:
        raise Misconfigured(f"{where}: {error.detail}") from None


def _retired(places: Places, *, may_be_missing: bool = False) -> tuple[dict[str, str], ...]:
    """Return the retired public keys. Raises Misconfigured."""
    path = places.retired
    if path is None:
        return ()
    try:
        with path.open("rb") as file:
            raw = file.read(JWKS_BYTES_MAX + 1)
    except FileNotFoundError:
        if places.is_retired_named and not may_be_missing:
            raise Misconfigured(
                f'LEDGER_RETIRED_KEYS_FILE: there is no {path}. If no key was retired yet, write {{"keys": []}} to it.'
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
