"""Exports that somebody forged who has the ledger's key, and that both verifiers refuse."""

from __future__ import annotations

from typing import Final

import pytest

from ledger.errors import JournalBroken
from ledger.verifier.jws import PublicKeys
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.exports import KEY, exported, jwks_of
from tests.kit.forgeries import FORGED, WRITTEN, exports, parsed, sealed, story
from tests.kit.journals import TWO

KEYS: Final = PublicKeys.of(jwks_of(KEY))


@pytest.fixture(scope="module")
def forged() -> dict[str, tuple[int, list[str], str]]:
    """Every forged export."""
    return exports()


def test_the_story_holds() -> None:
    """Goal: nothing is refused for another reason. Method: the journals before anybody changed them, and the kinds of
    entries that they have; made anew, they are the same."""
    for dataset_id, entries in story().journals.items():
        lines = exported(dataset_id, entries)
        assert verify(lines, keys=KEYS).journal.seq == independent_verifier.verify(lines)[0] == len(entries)
    assert exported(TWO, sealed(parsed())) == exported(TWO, story().journals[TWO])
    kinds = {entry["kind"] for entry in parsed()}
    assert kinds == independent_verifier.MEMBERS.keys() - {"proposal-refused"}


@pytest.mark.parametrize("name", [*FORGED, *WRITTEN])
def test_a_forged_export_is_refused(name: str, forged: dict[str, tuple[int, list[str], str]]) -> None:
    """Goal: with a signer's key nobody writes what no ledger writes. Method: one change in a journal, every hash after
    it and the signature made anew; both verifiers name the entry, and ours says what is wrong with it."""
    seq, lines, message = forged[name]
    with pytest.raises(JournalBroken, match=message) as caught:
        verify(lines, keys=KEYS)
    assert caught.value.seq == seq
    with pytest.raises(ValueError, match=f"^{seq}: "):
        independent_verifier.verify(lines)
