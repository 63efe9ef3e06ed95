"""keyring: the keys of profiles in the system's keyring, and in the file if it takes none."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.backends.fail import Keyring as NoKeyring

from ledger import profiles
from ledger.client import Ledger
from ledger.errors import Misconfigured
from ledger.profiles import Profile


class Memory(KeyringBackend):
    """A keyring in memory, of the kind that keyring finds on a system."""

    priority = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.keys.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.keys[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.keys[service, username]


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Memory]:
    """A system with a keyring, and no profile yet."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    before, made = keyring.get_keyring(), Memory()
    keyring.set_keyring(made)
    yield made
    keyring.set_keyring(before)


def test_the_keyring_has_the_keys_of_profiles(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a key that was kept is in the keyring alone, named with its server, and works; it goes with its profile,
    and when that is for another server or in the file. Method: each change of a profile; the file; the ledger."""
    url, key = profiles.normal(os.environ["LEDGER_URL"]), os.environ["LEDGER_KEY"]
    file, in_keyring = profiles.keep("default", Profile(url, key))
    assert in_keyring
    assert memory.keys == {("privacy-ledger", f"default {url}"): key}
    assert json.loads(file.read_text()) == {"profiles": {"default": {"url": url, "in_keyring": True}}}
    monkeypatch.delenv("LEDGER_KEY")
    monkeypatch.delenv("LEDGER_URL")
    with Ledger() as ledger:
        assert ledger.me()["role"] == "admin"
    profiles.keep("default", Profile("https://other.example", "pbl_other"))
    assert memory.keys == {("privacy-ledger", "default https://other.example"): "pbl_other"}
    assert profiles.read("default") == Profile("https://other.example", "pbl_other")
    profiles.keep("work", Profile(url, "pbl_work"))
    profiles.remove("default")
    assert [*memory.keys] == [("privacy-ledger", f"work {url}")]
    assert profiles.keep("work", Profile(url, "pbl_new"), in_keyring=False)[1] is False
    assert not memory.keys
    assert profiles.read("work") == Profile(url, "pbl_new")


def test_a_keyring_that_lost_a_key(memory: Memory) -> None:
    """Goal: without its key a profile is refused, with what to do, and no other key is used."""
    profiles.keep("default", Profile("https://a.example", "pbl_a"))
    memory.keys.clear()
    with pytest.raises(Misconfigured, match=r"no key of the profile default any more\..*login --no-keyring"):
        profiles.read("default")
    assert profiles.names() == ["default"]


def test_a_system_without_a_keyring(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    """Goal: if keyring is installed and the system has none, as on a server, the file has the key; one that goes away
    later is an error with what to do. No message has the key."""
    profiles.keep("early", Profile("https://a.example", "pbl_secret"))
    keyring.set_keyring(NoKeyring())
    with caplog.at_level(logging.INFO, "ledger.profiles"):
        file, in_keyring = profiles.keep("default", Profile("https://a.example", "pbl_a"))
        assert not in_keyring
        assert profiles.read("default") == Profile("https://a.example", "pbl_a")
        assert json.loads(file.read_text())["profiles"]["default"]["key"] == "pbl_a"
        with pytest.raises(Misconfigured, match="cannot be read: NoKeyringError") as caught:
            profiles.read("early")
        profiles.remove("early")
    assert "may still be in the keyring" in caplog.text
    assert "pbl_" not in caplog.text + str(caught.value)
