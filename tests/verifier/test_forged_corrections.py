"""Journals with corrections, forged by somebody who has the ledger's key: both verifiers name the entry that is
wrong."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any, Final

import pytest

from ledger.core.amounts import Amount
from ledger.core.journal import chain
from ledger.core.residual import Residual
from ledger.errors import JournalBroken
from ledger.verifier.jws import PublicKeys
from ledger.verifier.verify import verify
from tests.kit import independent_verifier
from tests.kit.beside_left import BASE, Residuals, residual, table
from tests.kit.books import settle, use
from tests.kit.exports import KEY, exported, jwks_of
from tests.kit.forgeries import Entries, sealed
from tests.kit.journals import ONE

KEYS: Final = PublicKeys.of(jwks_of(KEY))
Entry = dict[str, Any]
RAISED, PROPOSED, LOWERED, ADDED, OVERDRAWN = 8, 9, 10, 11, 12
"""Numbers of entries: a correction upwards at a level, a proposal to give back and its approval, one that is charged in
addition, and one that does not fit."""


@cache
def corrected() -> Residuals:
    """A run is settled and another one behind it; the first is corrected upwards, and gives that back; then it is
    charged in addition, and once more, which does not fit."""
    made = Residuals(residual(1, Amount(BASE, 1000)))
    first, second = (made.begin(use(1), costs=table()) for _ in range(2))
    made.move(settle, first)
    made.move(settle, second)
    assert made.corrected(first, Amount(300, 5), residual=_falling(300))
    assert made.corrected(first, Amount(40, 2), residual=_falling(40))
    assert made.corrected(first, Amount(60, 1), residual=_falling(60), by_output=True)
    assert made.corrected(second, Amount(5000, 1))
    return made


def _falling(most: int) -> Residual:
    return table(costs=[max(most - step, 1) for step in range(16)])


def entries() -> Entries:
    """The journal, to be changed."""
    return [chain.parse(body) for body, _ in copy.deepcopy(corrected().journals[ONE])]


def test_the_journal_shows_what_is_forged() -> None:
    """Goal: the entries that are changed are there, and hold. Method: their kinds; replay, books, and the verifier that
    shares no code."""
    made = corrected()
    kinds = [entry["kind"] for entry in entries()]
    assert kinds[RAISED - 1 :] == ["run-corrected", "change-proposed", *["run-corrected"] * 3]
    levels = [entry["residual"]["level"] for entry in entries() if "level" in entry.get("residual", ())]
    assert min(levels) > 0
    assert made.replay().accounts == made.books.accounts
    lines = exported(ONE, made.journals[ONE])
    verify(lines, keys=KEYS)
    independent_verifier.verify(lines)
    assert made.books.datasets[ONE].state == "frozen"


def _put(name: str, value: Any) -> Callable[[Entry], object]:
    return lambda entry: entry.update({name: value})


def _drop(name: str) -> Callable[[Entry], object]:
    return lambda entry: entry.pop(name)


def _shift(units: int, *names: str) -> Callable[[Entry], object]:
    """An amount, and what is spent, is another one, as if the journal added up."""

    def change(entry: Entry) -> None:
        for holder in (*(entry[name] for name in names), entry["balance"]["spent"]):
            holder["mu_sq_pico"] = str(int(holder["mu_sq_pico"]) + units)

    return change


def _return_more(entry: Entry) -> None:
    for part, units in (("returned", 1), ("charged", -1)):
        entry[part]["mu_sq_pico"] = str(int(entry[part]["mu_sq_pico"]) + units)
    spent = entry["balance"]["spent"]
    spent["mu_sq_pico"] = str(int(spent["mu_sq_pico"]) - 1)


def _at_no_level(entry: Entry) -> None:
    del entry["residual"]["level"]


def _thaw(entry: Entry) -> None:
    del entry["state"]
    entry |= {"fits": True, "frozen": []}


def _of_request(name: str, value: Any) -> Callable[[Entry], object]:
    return lambda entry: entry["request"].update({name: value})


def _proposing(name: str, value: Any) -> Callable[[Entry], object]:
    return lambda entry: entry["proposes"].update({name: value})


def _by(role: str) -> Callable[[Entry], object]:
    return lambda entry: entry["actor"].update({"role": role})


FORGED: Final[dict[str, tuple[int, Callable[[Entry], object], str]]] = {
    "one person gives back": (LOWERED, _drop("proposal"), "gives back what a run was charged, by one person"),
    "more is given back than was too much": (LOWERED, _return_more, "gives back another amount"),
    "less is charged than is missing": (RAISED, _shift(-1, "late", "charged"), "charges another amount"),
    "the true cost is lower than its table": (RAISED, _shift(-1, "cost", "late", "charged"), "has a cost other than"),
    "a level that does not fit": (RAISED, lambda entry: entry["residual"].update(level=16), "has a level outside"),
    "no level, at the cost of one": (RAISED, _at_no_level, "has a cost other than its table"),
    "another charge before": (RAISED, _put("before", Amount(109, 1).facts()), "corrects another charge"),
    "the same number again": (LOWERED, _put("number", 1), "is not the next correction"),
    "a number is left out": (ADDED, _put("number", 4), "is not the next correction"),
    "an output decided, and it takes the place": (ADDED, _put("replaces", True), "another amount|wrongly"),
    "no output decided, and it was stated": (ADDED, _of_request("decided_by_output", False), "states wrongly"),
    "what was proposed was something else": (LOWERED, _of_request("reason", "s"), "other than the one proposed"),
    "a proposal of a later correction": (
        PROPOSED,
        _proposing("number", 5),
        "than the next one",
    ),
    "a proposal that lowers nothing": (PROPOSED, _proposing("lowers", False), "'lowers'"),
    "a proposal with more": (
        PROPOSED,
        _proposing("report", "corrected"),
        "other than the one",
    ),
    "it does not fit, and is not frozen": (OVERDRAWN, _thaw, "is overdrawn but not frozen"),
    "it fits, by its own word": (OVERDRAWN, _put("fits", True), "does not state whether"),
    "another dataset is frozen": (OVERDRAWN, _put("frozen", ["data-2"]), "does not name what was overdrawn"),
    "a requester corrects": (RAISED, _by("requester"), "whose role does not allow it"),
    "of a project": (RAISED, _put("project", "p"), "is of another project"),
    "with a member more": (RAISED, _put("steps", 3), "has other members"),
    "without what it was before": (RAISED, _drop("before"), "has other members"),
    "an entry of an older version": (RAISED, _put("v", 4), "format version|unknown kind"),
    "a balance that is lower": (ADDED, _shift(-1), "balances that are not the sum"),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_correction_is_refused(name: str) -> None:
    """Goal: each rule of corrections is held to the entries before. Method: one entry changed; both verifiers name it,
    and ours states what is wrong."""
    seq, change, wrong = FORGED[name]
    changed = entries()
    change(changed[seq - 1])
    lines = exported(ONE, sealed(changed))
    with pytest.raises(JournalBroken, match=wrong) as caught:
        verify(lines, keys=KEYS)
    assert caught.value.seq == seq
    with pytest.raises(ValueError, match=f"^{seq}: "):
        independent_verifier.verify(lines)


@pytest.mark.parametrize("read", [partial(verify, keys=KEYS), independent_verifier.verify])
def test_giving_back_on_nobodys_word_is_refused(read: Callable[[list[str]], object]) -> None:
    """Goal: what gives back names on whose word, also if two people agreed. Method: the proposal and the correction
    leave it out alike."""
    changed = entries()
    del changed[PROPOSED - 1]["proposes"]["request"]["on_word_of"], changed[LOWERED - 1]["request"]["on_word_of"]
    with pytest.raises((JournalBroken, ValueError), match="nobody's word"):
        read(exported(ONE, sealed(changed)))
