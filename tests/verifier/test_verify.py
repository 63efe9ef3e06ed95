"""Exports, and that every tampering with one is found and located."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledger.core.journal import chain
from ledger.errors import JournalBroken
from ledger.verifier import verify
from ledger.verifier.export import (
    entry_line,
    head_line,
)
from tests.core.test_journal_forgeries import FORGERIES
from tests.core.test_journal_forgeries import forge as break_one
from tests.kit import independent_verifier
from tests.kit.driver import Ledger
from tests.kit.exports import exported
from tests.kit.journals import journals_of_parts

VERIFIER = Path(__file__).parents[1] / "kit" / "independent_verifier.py"


def busy(ledger: Ledger) -> list[str]:
    """The lines of an export of a journal with entries of every kind."""
    ledger.register(title="Zahlen, Ω, in two\u2028lines", budget={"mu": 1, "delta": 1e-6})
    runs = [ledger.ask(purpose=f"number {number}", labels={"n": str(number)}).json()["id"] for number in range(6)]
    ledger.ask({"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-7})
    ledger.ask({"type": "gaussian", "noise_multiplier": 1})
    for run in runs[:4]:
        ledger.post(f"/v1/runs/{run}/start")
    ledger.post(f"/v1/runs/{runs[0]}/settle", {"evidence": {"loss": 0.12500, "note": 'ä\t"quoted"'}})
    ledger.post(f"/v1/runs/{runs[1]}/settle")
    ledger.post(f"/v1/runs/{runs[2]}/void", {"reason": "lost"})
    ledger.post(f"/v1/runs/{runs[4]}/void", {"reason": "not needed"})
    ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "more people"})
    ledger.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "a look"})
    ledger.patch("/v1/datasets/mnist", {"state": "active", "title": "Numbers", "reason": "looked"})
    ledger.ask({"type": "laplace", "noise_multiplier": 3})
    answer = ledger.get("/v1/datasets/mnist/export")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.text.endswith("\n")
    # At \\n alone: a text may have other characters at which str.splitlines would cut.
    return list(answer.text.split("\n")[:-1])


def verified(lines: list[str]) -> verify.Verified:
    """What an export of a dataset's journal says that holds."""
    found = verify.verify(lines)
    assert isinstance(found, verify.Verified)
    return found


def test_an_export_holds_and_adds_up_to_the_balance(ledger: Ledger) -> None:
    """Goal: what the server exports verifies, and says what the server says."""
    found = verified(busy(ledger))
    assert (found.tenant, found.dataset) == ("acme", "mnist")
    shown = ledger.balance()
    (account,) = found.journal.accounts.values()
    assert (account.spent.mu_sq_pico, account.spent.delta_atto) == shown["spent"]
    assert (account.held.mu_sq_pico, account.held.delta_atto) == shown["held"]
    head = ledger.get("/v1/datasets/mnist/head").json()
    assert (found.journal.seq, found.journal.head.hex()) == (head["seq"], head["hash"])


def test_somebody_elses_verifier_agrees(ledger: Ledger, tmp_path: Path) -> None:
    """Goal: docs/reference/export.md is enough to write a verifier from. Method: one that imports nothing of ours, in a
    process of its own without our packages; it also has to find a changed cost."""
    assert "ledger" not in VERIFIER.read_text().split('"""', 2)[2].replace("privacy-ledger-export", "")
    files = [VERIFIER, *(VERIFIER.with_name(f"independent_{part}.py") for part in ("members", "levels", "corrections"))]
    text = "\n".join(file.read_text() for file in files)
    assert "import ledger" not in text and "from ledger" not in text  # noqa: PT018 (one claim)
    code = [line for line in text.splitlines() if line.strip() and '"""' not in line]
    assert len(code) <= 1000, "short enough to be read by whoever has to trust it"
    lines = busy(ledger)
    export = tmp_path / "mnist.jsonl"
    export.write_text("\n".join(lines) + "\n")
    told = subprocess.run([sys.executable, "-I", VERIFIER, export], capture_output=True, text=True, check=True)
    (found,) = verified(lines).journal.accounts.values()
    assert told.stdout.startswith(str(len(lines) - 2))
    assert f"'spent': [{found.spent.mu_sq_pico}, {found.spent.delta_atto}]" in told.stdout
    export.write_text("\n".join(lines).replace('"mu_sq_pico":"40000000000"', '"mu_sq_pico":"30000000000"'))
    told = subprocess.run([sys.executable, "-I", VERIFIER, export], capture_output=True, text=True, check=False)
    assert "2: its hash is wrong" in told.stderr


def test_somebody_elses_verifier_agrees_on_parts() -> None:
    """Goal: the same for partitions, projects, fair use, several datasets and overruns. Method: both verifiers on
    journals with all of these, and on each forgery that a test of replay knows."""
    parts = journals_of_parts()
    for dataset_id, entries in parts.journals.items():
        lines = exported(dataset_id, entries, requests=parts.requests)
        count, accounts = independent_verifier.verify(lines)
        ours = verified(lines).journal
        assert count == ours.seq
        assert {key: tuple(map(tuple, account.values())) for key, account in accounts.items()} == {
            (key.partition, key.project, None if key.principal_id is None else str(key.principal_id)): tuple(
                (amount.mu_sq_pico, amount.delta_atto)
                for amount in (account.limit, account.spent, account.held, account.overdrawn)
            )
            for key, account in ours.accounts.items()
        }
    missed = set()
    for what, (dataset_id, which, change, _) in FORGERIES.items():
        made = journals_of_parts()
        break_one(made, dataset_id, which, change)
        try:
            independent_verifier.verify(exported(dataset_id, made.journals[dataset_id], requests=made.requests))
        except (ValueError, KeyError):
            continue
        missed.add(what)
    assert missed == set()


def forge(line: str, change: Callable[[dict[str, Any]], object]) -> str:
    """A changed entry with its hash made anew: what someone does who knows the format."""
    item = chain.parse(line)
    change(item["entry"])
    body = chain.canonical(item["entry"])
    return entry_line(seq=item["seq"], hash_=chain.digest(body), body=body)


def nudge(rng: random.Random) -> Callable[[dict[str, Any]], object]:
    """A change of one value somewhere in an entry, its `prev` included."""

    def change(entry: dict[str, Any]) -> None:
        places: list[tuple[Any, Any]] = []

        def walk(value: Any) -> None:
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                if isinstance(item, dict | list):
                    walk(item)
                else:
                    places.append((value, key))

        walk(entry)
        holder, key = rng.choice(places)
        old = holder[key]
        holder[key] = old + 1 if isinstance(old, int) and not isinstance(old, bool) else f"{old}0"

    return change


Tampered = tuple[list[str], set[int]]
"""The lines afterwards, and the numbers that may be named as the first that is wrong."""


def bit(rng: random.Random, lines: list[str], at: int) -> Tampered:
    """One bit of a line is turned."""
    raw = bytearray(lines[at].encode())
    raw[rng.randrange(len(raw))] ^= 1 << rng.randrange(7)
    return [*lines[:at], raw.decode(errors="replace"), *lines[at + 1 :]], {at}


def forged(rng: random.Random, lines: list[str], at: int) -> Tampered:
    """One value of an entry is changed, and its hash made anew."""
    return [*lines[:at], forge(lines[at], nudge(rng)), *lines[at + 1 :]], {at}


def removed(_rng: random.Random, lines: list[str], at: int) -> Tampered:
    """A line is taken out."""
    return [*lines[:at], *lines[at + 1 :]], {at}


def swapped(rng: random.Random, lines: list[str], at: int) -> Tampered:
    """Two entries change places."""
    other = rng.choice([place for place in range(1, len(lines) - 1) if place != at])
    changed = list(lines)
    changed[at], changed[other] = changed[other], changed[at]
    return changed, {min(at, other)}


def doubled(_rng: random.Random, lines: list[str], at: int) -> Tampered:
    """A line stands twice."""
    return [*lines[: at + 1], *lines[at:]], {at + 1}


def truncated(rng: random.Random, lines: list[str], at: int) -> Tampered:
    """The rest is cut off, with or without the head."""
    return [*lines[:at], *lines[-1:]] if rng.random() < 0.5 else lines[:at], {at}


def beheaded(rng: random.Random, lines: list[str], _at: int) -> Tampered:
    """The head names another entry."""
    count = len(lines) - 2
    seq = rng.choice((count, count - 1, count + 1))
    said = json.loads(lines[-1])["head"]
    hash_ = rng.randbytes(32) if seq == count else bytes.fromhex(said["hash"])
    changed = head_line(seq=seq, hash_=hash_, root=bytes.fromhex(said["root"]), signature=said["signature"])
    return [*lines[:-1], changed], {count, count + 1}


def rechained(rng: random.Random, lines: list[str], at: int) -> Tampered:
    """One value is changed and every hash after it made anew: found where the numbers stop adding up, or in the head.
    Where it was the link itself that was changed, nothing tells which of its two ends is the false one."""
    changed = [*lines[:at], forge(lines[at], nudge(rng)), *lines[at + 1 :]]
    for place in range(at + 1, len(lines) - 1):
        prev = json.loads(changed[place - 1])["hash"]
        changed[place] = forge(lines[place], partial(dict.update, prev=prev))
    return changed, set(range(at - 1, len(lines) - 1))


def test_every_tampering_is_found_and_located(ledger: Ledger, tries: Callable[[int, int], int]) -> None:
    """Goal: a change, removal, swap, doubling or truncation is named by the first seq that is wrong or missing, whether
    or not its author knew how to make a hash. Method: seeded random tampering with a real export."""
    lines = busy(ledger)
    verify.verify(lines)
    rng = random.Random(2026)
    found: Counter[str] = Counter()
    for _ in range(tries(400, 10_000)):
        how = rng.choice((bit, forged, removed, swapped, doubled, truncated, beheaded, rechained))
        at = rng.randint(1, len(lines) - 2)
        changed, expected = how(rng, lines, at)
        with pytest.raises(JournalBroken) as caught:
            verify.verify(changed)
        assert caught.value.seq in expected, f"{how.__name__} at {at}: {caught.value}"
        found[how.__name__] += 1
    print(f"found and located: {dict(found)}")


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines.__setitem__(0, "{}"),
        lambda lines: lines.__setitem__(0, "[" * 100_000),
        lambda lines: lines.__setitem__(0, lines[0].replace('"version":3', '"version":4')),
        lambda lines: lines.__setitem__(0, lines[0].replace("privacy-ledger-export", "another")),
        lambda lines: lines.pop(0),
        lambda lines: lines.clear(),
    ],
    ids=["empty", "deep", "version", "format", "missing", "nothing"],
)
def test_a_wrong_header_is_named(ledger: Ledger, change: Callable[[list[str]], object]) -> None:
    """Goal: a file that is no export says so, and does not end in a traceback."""
    lines = busy(ledger)
    change(lines)
    with pytest.raises(JournalBroken) as caught:
        verify.verify(lines)
    assert caught.value.seq == 0


def test_an_export_is_another_datasets_when_its_header_says_so(ledger: Ledger) -> None:
    """Goal: entries cannot be passed off as another dataset's or tenant's."""
    lines = busy(ledger)
    for name in ("tenant", "dataset"):
        about = json.loads(lines[0])
        about[name]["id"] = "00000000-0000-4000-8000-000000000000"
        with pytest.raises(JournalBroken, match=f"another {name}"):
            verify.verify([json.dumps(about), *lines[1:]])


def test_a_journal_that_grows_while_it_is_exported(ledger: Ledger) -> None:
    """Goal: an export ends where its head was when it began. Method: more entries than one page, one added midway."""
    ledger.register()
    release = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 1000}}
    for part in range(2):
        runs = [{**release, "idempotency_key": f"{part}-{number}"} for number in range(600)]
        assert ledger.post("/v1/runs/batch", {"runs": runs}).status_code == 200
    lines: list[str] = []
    with ledger.client.stream(
        "GET", "/v1/datasets/mnist/export", headers={"Authorization": f"Bearer {ledger.key}"}
    ) as answer:
        for line in answer.iter_lines():
            if not lines:
                ledger.ask()
            lines.append(line)
    assert verified(lines).journal.seq in (1201, 1202)
