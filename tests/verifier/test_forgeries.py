"""Exports that somebody forged who has the ledger's key, and that both verifiers refuse."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest

from ledger.core.journal import chain
from ledger.errors import JournalBroken
from ledger.verifier.jws import PublicKeys
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.exports import KEY, exported, jwks_of
from tests.kit.forgeries import FORGED, WRITTEN, Entries, exports, parsed, sealed, story
from tests.kit.journals import TWO, journals_of_parts

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


# --- at random -------------------------------------------------------------------------------------------------------

ODD: Final[tuple[Any, ...]] = ("", "x", 0, 1, -1, True, None, [], {}, "0", "1", "-1", "active", "frozen", "retired")


def mutate(rng: random.Random, entries: Entries) -> None:
    """One value somewhere is another: one that stands elsewhere, an odd one, one more or less, or none."""
    entry = rng.choice(entries)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            places.append((value, key))
            if isinstance(item, dict | list):
                walk(item)

    walk(entry)
    holder, key = rng.choice([place for place in places if place != (entry, "seq") and place != (entry, "prev")])
    old = holder[key]
    match rng.randrange(5):
        case 0:
            other = rng.choice(entries)
            holder[key] = other[key] if isinstance(holder, dict) and key in other else rng.choice(ODD)
        case 1:
            holder[key] = rng.choice(ODD)
        case 2 if isinstance(old, str) and old.isascii() and old.isdecimal():
            holder[key] = str(max(0, int(old) + rng.choice((-1, 1, 10**10, -(10**10)))))
        case 3 if isinstance(holder, dict):
            del holder[key]
        case 4 if isinstance(holder, dict):
            holder[rng.choice(("state", "project", "overrun", "proposal", "partitions", "valid_for"))] = old
        case _:
            place = entries.index(entry)
            other_place = rng.randrange(len(entries))
            entries[place], entries[other_place] = entries[other_place], entries[place]


def verdict(check: Callable[[list[str]], Any], lines: list[str]) -> int | None:
    """The first entry that is wrong; None if none is."""
    try:
        check(lines)
    except JournalBroken as error:
        return error.seq
    except ValueError as error:
        return int(str(error).split(":")[0])
    return None


def test_both_verifiers_agree(tries: Callable[[int, int], int]) -> None:
    """Goal: docs/export.md is what the verifier does, rule by rule. Method: seeded changes in journals with an entry of
    every kind, every hash and the signature made anew; the verifier and the one that shares no code name the same
    entry, or none."""
    rng = random.Random(15)
    of_parts = journals_of_parts().journals.items()
    journals = [(TWO, parsed()), *((id_, [chain.parse(body) for body, _ in mine]) for id_, mine in of_parts)]
    verdicts: Counter[str] = Counter()
    for _ in range(tries(400, 20_000)):
        dataset_id, entries = rng.choice(journals)
        changed = copy.deepcopy(entries)
        for _ in range(rng.choice((1, 1, 2))):
            mutate(rng, changed)
        lines = exported(dataset_id, sealed(changed), name=entries[0]["dataset"])
        ours, theirs = verdict(partial(verify, keys=KEYS), lines), verdict(independent_verifier.verify, lines)
        assert ours == theirs, "\n".join(lines)
        verdicts["accepted" if ours is None else "refused"] += 1
    print(f"verdicts: {dict(verdicts)}")
    assert verdicts["refused"] > verdicts["accepted"] > 0
