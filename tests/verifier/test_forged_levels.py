"""Exports of journals with runs costed beside what is left: whole, forged, and changed at random; both verifiers."""

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
from tests.kit.beside_left import Residuals, batches, story, walked
from tests.kit.exports import KEY, exported, jwks_of
from tests.kit.forged_levels import FORGED, FORGED_BATCHES, forged, forged_batch, wrong_at
from tests.kit.forgeries import Entries, sealed
from tests.verifier.test_forgeries import mutate, verdict

KEYS: Final = PublicKeys.of(jwks_of(KEY))


def demand_held(made: Residuals) -> Counter[str]:
    """Check that replay and the verifier that shares no code make of each journal what the books are; what stands in
    the entries."""
    counted: Counter[str] = Counter()
    for dataset_id, sealed_entries in made.journals.items():
        replayed = made.replay(dataset_id)
        mine = {key: account for key, account in made.books.accounts.items() if key.dataset_id == dataset_id}
        assert replayed.accounts == mine
        assert replayed.state == made.books.datasets[dataset_id].state
        lines = exported(dataset_id, sealed_entries, requests=made.requests)
        count, theirs = independent_verifier.verify(lines)
        assert count == len(sealed_entries)
        assert {key: parts["overdrawn"] for key, parts in theirs.items()} == {
            (key.partition, key.project, None if key.principal_id is None else str(key.principal_id)): [
                account.overdrawn.mu_sq_pico,
                account.overdrawn.delta_atto,
            ]
            for key, account in mine.items()
        }
        for body, _ in sealed_entries:
            counted.update(kinds_in(chain.parse(body)))
    return counted


def kinds_in(entry: dict[str, Any]) -> list[str]:
    """What an entry shows of costs beside what is left."""
    kinds = [entry["kind"], *(name for name in ("kept", "independent", "costing") if name in entry)]
    if "level" in entry.get("residual", ()):
        kinds.append(
            "by another" if "by" in entry["residual"] else "level" if entry["residual"]["level"] else "level 0"
        )
    if "together" in entry:
        kinds.append("together, by another" if "by" in entry.get("residual", ()) else "together")
    overrun = entry.get("overrun", {})
    if overrun:
        kinds.append("fits" if overrun["fits"] else "does not fit")
    if "level" in overrun.get("residual", ()):
        kinds.append("late level")
    if entry["kind"] == "run-corrected":
        change = (
            "lowered" if entry["returned"]["mu_sq_pico"] != "0" else "in its place" if entry["replaces"] else "added"
        )
        kinds += [f"corrected, {change}", "corrected, fits" if entry["fits"] else "corrected, does not fit"]
        kinds += ["corrected by two"] if "proposal" in entry else []
        kinds += ["corrected again"] if entry["number"] > 1 else []
        kinds += ["corrected at a level"] if entry.get("residual", {}).get("level") else []
    return kinds


def test_the_story_holds() -> None:
    """Goal: the journals that are forged here have what they are to show, and hold. Method: what each kind of entry
    says; replay, books and the verifier that shares no code agree on the accounts, trails included."""
    counted = demand_held(story())
    print(dict(counted))
    assert {"kept": 2, "independent": 1, "by another": 2, "level 0": 1, "run-reported": 1}.items() <= counted.items()
    assert (counted["late level"], counted["fits"], counted["does not fit"]) == (2, 2, 3)


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_level_is_refused(name: str) -> None:
    """Goal: r, the table, its level, who decided it, the slack, and what is kept are each held to the entries before.
    Method: one entry changed, with balances as they would be; both verifiers name it, and ours says what is wrong."""
    lines = forged(name)
    with pytest.raises(JournalBroken, match=FORGED[name][2]) as caught:
        verify(lines, keys=KEYS)
    assert caught.value.seq == wrong_at(name)
    with pytest.raises(ValueError, match=f"^{wrong_at(name)}: "):
        independent_verifier.verify(lines)


def test_batches_hold() -> None:
    """Goal: the same of batches: at one level, by another dataset, with a run that has no table, and one after
    another."""
    counted = demand_held(batches())
    print(dict(counted))
    assert {"together": 6, "together, by another": 3, "level": 17, "run-voided": 4}.items() <= counted.items()
    assert "kept" not in counted


@pytest.mark.parametrize("name", FORGED_BATCHES)
def test_a_forged_batch_is_refused(name: str) -> None:
    """Goal: the runs of a batch follow one another, at the highest level at which all fit. Method: entries changed,
    with balances as they would be; both verifiers name the first that does not hold."""
    seq, _, wrong = FORGED_BATCHES[name]
    lines = forged_batch(name)
    with pytest.raises(JournalBroken, match=wrong) as caught:
        verify(lines, keys=KEYS)
    assert caught.value.seq == seq
    with pytest.raises(ValueError, match=f"^{seq}: "):
        independent_verifier.verify(lines)


def test_random_journals_replay(tries: Callable[[int, int], int]) -> None:
    """Goal: decide, replay and the verifier that shares no code have one rule. Method: random commands on two datasets,
    one in partitions and with a project, and a third derived from both."""
    rng, counted = random.Random(7), Counter[str]()
    for _ in range(tries(25, 2000)):
        counted.update(demand_held(walked(rng, 40)))
    print(dict(counted))
    needed = {"kept", "independent", "by another", "level", "level 0", "late level", "fits", "does not fit", "costing"}
    needed |= {"together", "together, by another"}
    needed |= {f"corrected, {what}" for what in ("lowered", "in its place", "added", "fits", "does not fit")}
    needed |= {"corrected by two", "corrected again", "corrected at a level"}
    assert needed <= counted.keys()


def test_both_verifiers_agree_on_levels(tries: Callable[[int, int], int]) -> None:
    """Goal: docs/reference/export.md is what the verifier does here too. Method: seeded changes in the story and in
    random journals; the verifier and the one that shares no code name the same entry, or none."""
    rng, verdicts = random.Random(23), Counter[str]()
    books = [story(), batches(), *(walked(rng, 30) for _ in range(tries(3, 100)))]
    journals: list[tuple[Residuals, Any, Entries]] = [
        (made, dataset_id, [chain.parse(body) for body, _ in mine])
        for made in books
        for dataset_id, mine in made.journals.items()
    ]
    for _ in range(tries(150, 20_000)):
        made, dataset_id, whole = rng.choice(journals)
        changed = copy.deepcopy(whole)
        for _ in range(rng.choice((1, 1, 2))):
            mutate(rng, changed)
        lines = exported(dataset_id, sealed(changed), name=whole[0]["dataset"], requests=made.requests)
        ours, theirs = verdict(partial(verify, keys=KEYS), lines), verdict(independent_verifier.verify, lines)
        assert ours == theirs, "\n".join(lines)
        verdicts["accepted" if ours is None else "refused"] += 1
    print(f"verdicts: {dict(verdicts)}")
    assert verdicts["refused"] > verdicts["accepted"] > 0
