"""Exports that somebody forged who has the ledger's key, and that both verifiers refuse."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import pytest

from ledger.core.amounts import microseconds, timestamp
from ledger.core.journal import chain
from ledger.core.journal.replay import Replayed
from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier.jws import PublicKeys, SigningKey
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.books import TENANT, actor
from tests.kit.exports import KEY, OTHER_KEY, exported, jwks_of
from tests.kit.forgeries import FORGED, WRITTEN, Entries, exports, parsed, sealed, story
from tests.kit.independent_members import MEMBERS
from tests.kit.journals import TWO, journals_of_parts

KEYS: Final = PublicKeys.of(jwks_of(KEY))


@pytest.fixture(scope="module")
def forged() -> dict[str, tuple[int, list[str], str]]:
    """Every forged export."""
    return exports()


def test_the_story_holds() -> None:
    """Goal: nothing is refused for another reason. Method: the journals before anybody changed them, and the kinds of
    entries that they have; made anew, they are the same."""
    made = story()
    for dataset_id, entries in made.journals.items():
        for requests in (made.requests, {}):
            lines = exported(dataset_id, entries, requests=requests)
            assert verify(lines, keys=KEYS).journal.seq == independent_verifier.verify(lines)[0] == len(entries)
    assert exported(TWO, sealed(parsed())) == exported(TWO, story().journals[TWO])
    kinds = {entry["kind"] for entry in parsed()}
    assert kinds == MEMBERS.keys() - {"proposal-refused", "run-corrected", "run-entered"}


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
    """Goal: docs/reference/export.md is what the verifier does, rule by rule. Method: seeded changes in journals
    with an entry of every kind, every hash and the signature made anew; the verifier and the one that shares no
    code name the same entry, or none."""
    rng = random.Random(15)
    made = journals_of_parts()
    known = made.requests | story().requests
    of_parts = made.journals.items()
    journals = [(TWO, parsed()), *((id_, [chain.parse(body) for body, _ in mine]) for id_, mine in of_parts)]
    verdicts: Counter[str] = Counter()
    for _ in range(tries(200, 20_000)):
        dataset_id, entries = rng.choice(journals)
        changed = copy.deepcopy(entries)
        for _ in range(rng.choice((1, 1, 2))):
            mutate(rng, changed)
        requests = rng.choice((known, {}))
        lines = exported(dataset_id, sealed(changed), name=entries[0]["dataset"], requests=requests)
        ours, theirs = verdict(partial(verify, keys=KEYS), lines), verdict(independent_verifier.verify, lines)
        assert ours == theirs, "\n".join(lines)
        verdicts["accepted" if ours is None else "refused"] += 1
    print(f"verdicts: {dict(verdicts)}")
    assert verdicts["refused"] > verdicts["accepted"] > 0


def test_a_request_that_stands_elsewhere() -> None:
    """Goal: an export of one dataset is checked with the requests that stand in another's journal, and without. Method:
    the lines that have them: changed, doubled, before another entry, before the head, and left out; both verifiers."""
    lines = exported(TWO, story().journals[TWO], requests=story().requests)
    (index,) = [at for at, line in enumerate(lines) if line.startswith('{"request":')]
    seq = int(lines[index + 1].split(",")[0].removeprefix('{"seq":'))
    elsewhere = [*lines[: index - 1], lines[index], lines[index - 1], *lines[index + 1 :]]
    changed: list[tuple[list[str], int | None]] = [
        (lines, None),
        ([*lines[:index], lines[index].replace('"partitions":["a"]', '"partitions":["b"]'), *lines[index + 1 :]], seq),
        ([*lines[:index], lines[index], *lines[index:]], seq),
        (elsewhere, seq - 1),
        ([*lines[:-1], lines[index], lines[-1]], int(lines[-2].split(",")[0].removeprefix('{"seq":')) + 1),
        ([*lines[:index], *lines[index + 1 :]], None),
    ]
    for forged, wrong_at in changed:
        assert verdict(partial(verify, keys=KEYS), forged) == wrong_at, forged
        assert verdict(independent_verifier.verify, forged) == wrong_at, forged
    (whole, *_), without = (changed[0], changed[-1][0])
    assert verified_journal(whole).withheld == {}
    assert verified_journal(without).withheld == {"data-1": 1}


def verified_journal(lines: list[str]) -> Replayed:
    """What a dataset's export adds up to."""
    journal = verify(lines, keys=KEYS).journal
    assert isinstance(journal, Replayed)
    return journal


# --- the tenant's own journal ----------------------------------------------------------------------------------------

ADMIN_FACTS: Final = actor("admin", 3).facts()


def tenant_export(*policies: tuple[str, bool], tenant_id: UUID = TENANT, key: SigningKey = KEY) -> list[str]:
    """An export of a tenant's own journal: from when on a second steward was asked for, and from when on not."""
    operator = {"role": "operator", "name": "at the database"}
    common: dict[str, Any] = {"v": 3, "tenant": str(tenant_id), "actor": ADMIN_FACTS}
    made = common | {"actor": operator, "kind": "tenant-made", "name": "acme", "at": "2027-01-01T00:00:00.000000Z"}
    of_policy = {"kind": "policy-set", "reason": "r"}
    entries = [made, *(common | of_policy | {"at": at, "second_steward": asks} for at, asks in policies)]
    return exported(None, sealed(entries), tenant_id=tenant_id, key=key)


def done_alone() -> dict[str, dict[str, Any]]:
    """What one person does in the story that can take two, by what it is."""
    entries = parsed()
    thawed = next(entry for entry in entries if entry["kind"] == "dataset-changed")
    voided = [entry for entry in entries if entry["kind"] == "run-voided"][1]
    return {"thaw": thawed, "void": voided}


def moment_before(at: str, seconds: int) -> str:
    """So many seconds earlier."""
    return timestamp(microseconds(datetime.fromisoformat(at)) - seconds * 1_000_000)


def test_one_person_is_found_by_the_policy() -> None:
    """Goal: with the tenant's journal, nobody did alone what took two, and nobody proposed what took one. Method:
    policies that asked for two from before each such act, or only later, or not any more, or set at that very moment;
    both verifiers."""
    lines = exported(TWO, story().journals[TWO])
    acts = done_alone()
    thaw, void = acts["thaw"], acts["void"]
    proposed = next(entry for entry in parsed() if entry["kind"] == "change-proposed")
    asked = ("2027-01-01T00:00:00.000000Z", True)
    dropped = (moment_before(thaw["at"], 1), False)
    policies: list[tuple[list[tuple[str, bool]], int | None]] = [
        ([], proposed["seq"]),
        ([(asked[0], False)], proposed["seq"]),
        ([asked], thaw["seq"]),
        ([asked, dropped], None),
        ([asked, (moment_before(thaw["at"], -1), False)], thaw["seq"]),
        ([asked, dropped, (moment_before(void["at"], 1), True)], void["seq"]),
        ([asked, dropped, (void["at"], True), (moment_before(void["at"], -1), False)], None),
        ([asked, dropped, (moment_before(void["at"], -1), True), (moment_before(void["at"], -2), False)], None),
    ]
    for policy, wrong_at in policies:
        tenant = tenant_export(*policy)
        assert verdict(partial(verify, keys=KEYS, tenant=tenant), lines) == wrong_at, policy
        assert verdict(partial(independent_verifier.verify, tenant=tenant), lines) == wrong_at, policy


def test_a_tenants_journal_has_to_hold_too() -> None:
    """Goal: no policy is believed that nobody signed. Method: another tenant's journal, one by another key, a forged
    one, a dataset's in its place, and one for the tenant's own."""
    lines = exported(TWO, story().journals[TWO])
    good = tenant_export(("2027-01-02T00:00:00.000000Z", False))
    forged = [line.replace('"second_steward":false', '"second_steward":true') for line in good]
    for tenant, message in (
        (tenant_export(tenant_id=UUID(int=8)), "another tenant's"),
        (tenant_export(key=OTHER_KEY), "does not verify itself"),
        (forged, "does not verify itself"),
        (lines, "is not an export of the tenant's own journal"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            verify(lines, keys=KEYS, tenant=tenant)
    with pytest.raises(InvalidRequest, match="of a dataset's journal"):
        verify(good, keys=KEYS, tenant=good)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries[1]["actor"].update(role="steward"), "whose role"),
        (lambda entries: entries[1].update(state="active"), "other members"),
        (lambda entries: entries[1].update(second_steward=1), "sets a policy that is neither true nor false"),
        (lambda entries: entries[1].update(at="2026-12-31T00:00:00.000000Z"), "older than"),
        (lambda entries: entries[0].update(actor=ADMIN_FACTS), "whose role"),
        (lambda entries: entries[1]["actor"].pop("key"), "has an actor in a form that no ledger writes"),
    ],
    ids=["role", "member", "policy", "time", "operator", "actor"],
)
def test_a_forged_journal_of_a_tenant_is_refused(change: Callable[[Entries], object], message: str) -> None:
    """Goal: the tenant's own journal is held to members, roles and times too."""
    lines = tenant_export(("2027-01-02T00:00:00.000000Z", True))
    entries = [chain.parse(line)["entry"] for line in lines[1:-1]]
    change(entries)
    with pytest.raises(JournalBroken, match=message):
        verify(exported(None, sealed(entries)), keys=KEYS)
