"""Where the server is and with which key: command line, environment, or a profile that `login` stored.

Profiles are in one file that only its owner can read (mode 600), in the user's folder for configuration. Their keys are
in it too, or in the system's keyring if the package `keyring` is installed and has one. The key of a profile is sent to
the profile's own server and to no other one.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from ledger.errors import InvalidRequest, Misconfigured, NotFound, Unauthenticated

DEFAULT: Final = "default"
URL: Final = "http://127.0.0.1:8000"
PROFILES_MAX: Final = 1000
FILE_BYTES_MAX: Final = 1_048_576
KEY_FILE_BYTES_MAX: Final = 65_536
SERVICE: Final = "privacy-ledger"
"""Under which the keyring has the keys."""
log: Final = logging.getLogger("ledger.profiles")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


@dataclass(frozen=True, slots=True)
class Profile:
    """A server and a key for it. `repr` leaves the key out."""

    url: str
    key: str

    def __repr__(self) -> str:
        return f"<Profile of {self.url}>"


@dataclass(frozen=True, slots=True)
class _Kept:
    """A profile as its file has it. key: None if the keyring has it."""

    url: str
    key: str | None = field(repr=False)

    def facts(self) -> dict[str, Any]:
        return {"url": self.url, "in_keyring": True} if self.key is None else {"url": self.url, "key": self.key}


@dataclass(frozen=True, slots=True)
class Typed:
    """What was typed before the command: which profile, which server, and the file with the key."""

    profile: str | None = None
    url: str | None = None
    key_file: Path | None = None


_NOTHING: Final = Typed()
TYPED: Final = ContextVar("typed", default=_NOTHING)
"""The options of this command line, for all commands."""


def connection(*, url: str | None = None) -> Profile:
    """Return the server to call and the key for it. url: the one that the command itself names.

    The command line comes first, then the environment (LEDGER_URL, LEDGER_KEY), then the profile (LEDGER_PROFILE, else
    the one named "default"). A named profile replaces the environment. Raises Unauthenticated if there is no key,
    NotFound if the profile does not exist, and Misconfigured if its key is for another server.
    """
    typed = TYPED.get()
    stated = url or typed.url
    key = None if typed.key_file is None else key_in(typed.key_file)
    if typed.profile is None:
        key = key or os.environ.get("LEDGER_KEY", "").strip() or None
        stated = stated or os.environ.get("LEDGER_URL", "").strip() or None
        if key is not None:
            return Profile(stated or URL, key)
    name = typed.profile or os.environ.get("LEDGER_PROFILE", "").strip()
    profile = read(name or DEFAULT)
    if profile is None:
        if name:
            raise NotFound(
                f"No profile is named {name!r}. Make it: privacy-ledger login --profile {name}", profile=name
            )
        raise Unauthenticated("There is no key. Log in with `privacy-ledger login`, or set LEDGER_KEY.")
    if key is None and stated is not None and normal(stated) != profile.url:
        raise Misconfigured(
            f"The key of the profile {name or DEFAULT} is for {profile.url}, and the server is {normal(stated)}. Name"
            " a key for it with --key-file FILE or LEDGER_KEY, or log in there: privacy-ledger login --url URL"
        )
    return Profile(stated or profile.url, key or profile.key)


def normal(url: str) -> str:
    """Return a URL as profiles keep it."""
    return url.strip().rstrip("/")


def key_in(file: Path) -> str:
    """Return the key in a file: alone, or as LEDGER_KEY=… among other lines. Raises InvalidRequest, without the key."""
    try:
        with file.open(encoding="utf-8") as source:
            text = source.read(KEY_FILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not a text"
        raise InvalidRequest(f"{file}: {reason}", field="key-file") from None
    lines = [line.strip().removeprefix("export ") for line in text.splitlines() if line.strip()]
    named = [line.partition("=")[2].strip("'\"") for line in lines if line.startswith("LEDGER_KEY=")]
    if named or len(lines) == 1:
        return named[-1] if named else lines[0]
    raise InvalidRequest(f"{file}: has neither one line with a key nor a line LEDGER_KEY=…", field="key-file")


# --- the file --------------------------------------------------------------------------------------------------------


def file_of_profiles() -> Path:
    """Return the file of profiles: in XDG_CONFIG_HOME, by default ~/.config."""
    folder = os.environ.get("XDG_CONFIG_HOME", "").strip()
    base = Path(folder) if folder and Path(folder).is_absolute() else Path.home() / ".config"
    return base / "privacy-ledger" / "profiles.json"


def read(name: str) -> Profile | None:
    """Return a profile, or None if it does not exist. Raises Misconfigured if the file is open to others or invalid, or
    if the keyring that has its key has none for it."""
    kept = _read_all().get(name)
    if kept is None:
        return None
    return Profile(kept.url, _key_of(name, kept.url) if kept.key is None else kept.key)


def names() -> list[str]:
    """Return the names of all profiles. Raises as `read`."""
    return sorted(_read_all())


def keep(name: str, profile: Profile, *, in_keyring: bool = True) -> tuple[Path, bool]:
    """Store a profile, and return the file, and whether the keyring has its key. in_keyring: whether it may have it.

    Raises InvalidRequest for a name that is not valid, and Misconfigured if the file is open to others or invalid.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"profile: {name!r} is not a name. Use 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter"
            " or digit",
            field="profile",
        )
    profiles = _read_all()
    if name not in profiles and len(profiles) >= PROFILES_MAX:
        raise InvalidRequest(f"profile: there are {PROFILES_MAX} already. Remove one with `logout`", field="profile")
    before = profiles.get(name)
    is_kept = in_keyring and _keep_key(name, profile)
    file = _write({**profiles, name: _Kept(profile.url, None if is_kept else profile.key)})
    if before is not None and before.key is None and not (is_kept and before.url == profile.url):
        _forget_key(name, before.url)
    return file, is_kept


def remove(name: str) -> None:
    """Remove a profile. Raises NotFound, and as `read`."""
    profiles = _read_all()
    if name not in profiles:
        raise NotFound(f"No profile is named {name!r}.", profile=name)
    _write({other: profile for other, profile in profiles.items() if other != name})
    if profiles[name].key is None:
        _forget_key(name, profiles[name].url)


def _read_all() -> dict[str, _Kept]:
    file = file_of_profiles()
    try:
        with file.open("rb") as source:
            mode = os.fstat(source.fileno()).st_mode
            raw = source.read(FILE_BYTES_MAX)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Misconfigured(f"{file}: {error.strerror}") from None
    if mode & 0o077:
        raise Misconfigured(f"{file} has keys, and other users of this machine can open it. Close it: chmod 600 {file}")
    try:
        profiles = json.loads(raw)["profiles"]
        return {name: _kept(item) for name, item in profiles.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Misconfigured(f"{file} is damaged. Remove it, and log in again: privacy-ledger login") from None


def _kept(item: Mapping[str, Any]) -> _Kept:
    return _Kept(str(item["url"]), None if item.get("in_keyring") is True else str(item["key"]))


def _write(profiles: Mapping[str, _Kept]) -> Path:
    """Replace the file at once, so that a reader never sees half of it."""
    file = file_of_profiles()
    content: dict[str, Any] = {"profiles": {name: profile.facts() for name, profile in sorted(profiles.items())}}
    partial = file.with_name(f".{file.name}.{uuid4().hex[:8]}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as target:
            os.fchmod(target.fileno(), 0o600)
            json.dump(content, target, indent=2)
            target.flush()
            os.fsync(target.fileno())
        partial.replace(file)
    except OSError as error:
        raise Misconfigured(f"{file} cannot be written: {error.strerror}") from None
    finally:
        partial.unlink(missing_ok=True)
    return file


# --- the keyring -----------------------------------------------------------------------------------------------------


def _keyring() -> Any:
    """Return the package `keyring`, which is optional. Raises ImportError."""
    return importlib.import_module("keyring")


def _user(name: str, url: str) -> str:
    """Return under which name the keyring has the key of a profile: with its server, so that it is sent to no other."""
    return f"{name} {url}"


def _keep_key(name: str, profile: Profile) -> bool:
    """Put a key into the keyring, and return whether it is there: it may not be installed, or have no store."""
    try:
        keyring = _keyring()
        keyring.set_password(SERVICE, _user(name, profile.url), profile.key)
        is_there = keyring.get_password(SERVICE, _user(name, profile.url)) == profile.key
    except ImportError:
        return False
    except Exception as error:  # whatever a keyring of this system raises, such as without a desktop
        log.info("The keyring took no key: %s", type(error).__name__)
        return False
    return bool(is_there)


def _key_of(name: str, url: str) -> str:
    """Return a key from the keyring. Raises Misconfigured."""
    again = "Log in again: privacy-ledger login --no-keyring"
    try:
        key = _keyring().get_password(SERVICE, _user(name, url))
    except ImportError:
        raise Misconfigured(
            f"The key of the profile {name} is in the keyring, and the package keyring is not installed here. Install"
            f" it: pip install 'privacy-ledger[keyring]'. {again}"
        ) from None
    except Exception as error:
        raise Misconfigured(
            f"The keyring, which has the key of the profile {name}, cannot be read: {type(error).__name__}. {again}"
        ) from None
    if not key:
        raise Misconfigured(f"The keyring has no key of the profile {name} any more. {again}")
    return str(key)


def _forget_key(name: str, url: str) -> None:
    """Remove a key from the keyring, if it is there."""
    try:
        _keyring().delete_password(SERVICE, _user(name, url))
    except Exception as error:
        log.warning("The key of the profile %s may still be in the keyring: %s", name, type(error).__name__)
