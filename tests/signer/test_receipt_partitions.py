"""A receipt permits what was charged: never a partition that is added later, whatever the shape of the run."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final

import pytest

from ledger.client import OtherDataset, Receipt, verify_receipt
from ledger.client.receipts import _partitions
from ledger.signer.receipts import compact
from tests.kit.driver import RELEASE, WEAK, Ledger
from tests.kit.scene import ok
from tests.signer.test_receipts import entries_of, keys_of, read

Permitted = dict[str, list[str] | None]
PARTS: Final = {"clicks": ["2026-09", "2026-10", "2026-11", "sample"], "views": ["2026-10", "2026-11", "old"]}
ADDED: Final = ["2026-08", "2026-12", "2026-10b"]
CLICKS, VIEWS = PARTS["clicks"], PARTS["views"]
SGD: Final = {"type": "dpsgd", "noise_multiplier": 20, "sampling": "shuffle", "sample_rate": 0.5, "steps": 8}

SHAPES: Final[dict[str, tuple[dict[str, Any], Permitted]]] = {
    "without partitions": ({"datasets": ["mnist"]}, {"mnist": None}),
    "whole": ({"datasets": ["clicks"]}, {"clicks": CLICKS}),
    "some": (
        {"datasets": [{"name": "clicks", "partitions": ["sample", "2026-10"]}]},
        {"clicks": ["2026-10", "sample"]},
    ),
    "derived": ({"datasets": ["no-bots"]}, {"no-bots": CLICKS, "clicks": CLICKS}),
    "derived, some": (
        {"datasets": [{"name": "no-bots", "partitions": ["2026-11"]}]},
        {"no-bots": ["2026-11"], "clicks": ["2026-11"]},
    ),
    "derived, with a budget of its own": ({"datasets": ["strict"]}, {"strict": CLICKS, "clicks": CLICKS}),
    "derived twice": (
        {"datasets": [{"name": "adults", "partitions": ["2026-10"]}]},
        {"adults": ["2026-10"], "clicks": ["2026-10"], "no-bots": ["2026-10"]},
    ),
    "a join": (
        {"datasets": ["joined"]},
        {"joined": ["2026-10", "2026-11"], "clicks": CLICKS, "views": VIEWS},
    ),
    "a join, some": (
        {"datasets": [{"name": "joined", "partitions": ["2026-11"]}]},
        {"joined": ["2026-11"], "clicks": ["2026-11"], "views": ["2026-11"]},
    ),
    "a join of a part and a whole": (
        {"datasets": ["labelled"]},
        # The entries do not tell whether mnist comes from clicks too, so that it is listed as if it did.
        {"labelled": CLICKS, "clicks": CLICKS, "mnist": CLICKS},
    ),
    "several": (
        {"datasets": ["views", {"name": "no-bots", "partitions": ["2026-11"]}, "mnist"]},
        {"views": VIEWS, "no-bots": ["2026-11"], "mnist": None, "clicks": ["2026-11"]},
    ),
    "a project": ({"datasets": ["no-bots"], "project": "ranking"}, {"no-bots": CLICKS, "clicks": CLICKS}),
    "segments": (
        {"datasets": [{"name": "views", "partitions": ["old"]}], "mechanism": SGD, "segments": 2},
        {"views": ["old"]},
    ),
}


@pytest.fixture
def desk(ledger: Ledger) -> Ledger:
    """Datasets with and without partitions, what is derived from them, a project, and fair use."""
    budget = {"mu": 9, "delta": 1e-3}
    ledger.register(budget=budget)
    for name, partitions in PARTS.items():
        ledger.register(name=name, partitions=partitions, budget=budget)
        ok(ledger.put(f"/v1/datasets/{name}/projects/ranking", {"budget": budget}))
    ok(ledger.put("/v1/datasets/views/fair-use", {"held": budget, "reason": "for all"}))
    for name, parents, own in (
        ("no-bots", ["clicks"], None),
        ("strict", ["clicks"], budget),
        ("adults", ["no-bots"], None),
        ("joined", ["clicks", "views"], None),
        ("labelled", ["clicks", "mnist"], None),
    ):
        derived_from = [{"name": parent, "unit_preserving": True} for parent in parents]
        ok(
            ledger.post(
                "/v1/datasets", {"name": name, "derived_from": derived_from, **({"budget": own, **WEAK} if own else {})}
            )
        )
    return ledger


def charged(ledger: Ledger, run: str, dataset: str) -> set[str]:
    """The partitions that a run's approval charged, as the journal has them."""
    (entry,) = (
        item["entry"]
        for item in entries_of(ledger, dataset).values()
        if (item["entry"]["kind"], item["entry"].get("run")) == ("run-approved", run)
    )
    return {part for group in entry.get("accounts", []) for part in group.get("partitions", [])}


def expanded(items: list[Any]) -> list[str]:
    """The names of a receipt's list, by docs/reference/receipts.md."""
    names: list[str] = []
    for item in items:
        if isinstance(item, str):
            names.append(item)
        else:
            first, last = item
            assert len(first) == len(last)
            digits = next(n for n in range(9, 0, -1) if first[-n:].isdigit() and len(first) >= n)
            assert first[:-digits] == last[:-digits]
            names += [f"{first[:-digits]}{n:0{digits}}" for n in range(int(first[-digits:]), int(last[-digits:]) + 1)]
    return names


def test_receipts_list_what_was_charged(desk: Ledger) -> None:
    """Goal: of every shape of run, one by one and in a batch, the receipts list the partitions whose accounts were
    charged, and no others: of the approval, of the start and renewed, also where partitions were added before the
    start or after it, which never keeps a run from starting or being settled. A verifier lets a job use those, and
    neither another one nor the whole. Method: against the journals, and a table by hand."""
    keys = keys_of(desk)
    asked = [(*SHAPES[name], ok(desk.ask(**{**RELEASE, **SHAPES[name][0]}))) for name in SHAPES]
    batch = [{**RELEASE, **body, "idempotency_key": name.replace(" ", "-")} for name, (body, _) in SHAPES.items()]
    results = ok(desk.post("/v1/runs/batch", {"runs": batch}))["results"]
    asked += [(*shape, result["run"]) for shape, result in zip(SHAPES.values(), results, strict=True)]
    before = {answer["id"]: ok(desk.post(f"/v1/runs/{answer['id']}/start")) for _, _, answer in asked[::2]}
    for name in PARTS:
        ok(desk.post(f"/v1/datasets/{name}/partitions", {"names": ADDED, "disjoint": True}))
    for _, permitted, approval in asked:
        run = approval["id"]
        held_again = None if run in before else ok(desk.get(f"/v1/runs/{run}/receipt"))
        start = before.get(run) or ok(desk.post(f"/v1/runs/{run}/start"))
        renewed = ok(desk.get(f"/v1/runs/{run}/receipt"))
        for answer in (approval, held_again, start, renewed):
            if answer is None:
                continue
            listed = {item["name"]: item.get("partitions") for item in read(answer["receipt"], keys)["datasets"]}
            assert {name: items and expanded(items) for name, items in listed.items()} == permitted
        for name, parts in permitted.items():
            assert charged(desk, run, name) in ({*(parts or ())}, set())
            assert name not in PARTS or charged(desk, run, name) == {*(parts or ())}
            permits(renewed["receipt"], keys, name, parts)
        assert ok(desk.post(f"/v1/runs/{run}/settle"))["state"] == "settled"
    for name in PARTS:
        spent = {
            part["name"]: int(part["balance"]["spent"]["mu_sq_pico"])
            for part in ok(desk.get(f"/v1/datasets/{name}/partitions"))["items"]
        }
        assert {part for part, amount in spent.items() if not amount} == {*ADDED}


def permits(receipt: str, keys: Any, name: str, parts: list[str] | None) -> None:
    """A verifier lets a job use these partitions of a dataset and nothing else."""

    def verified(use: Any) -> Receipt:
        return verify_receipt(receipt, jwks=keys, datasets=[use])

    if parts is None:
        verified(name)
    else:
        verified({"name": name, "partitions": parts})
        for part in parts:
            verified({"name": name, "partitions": [part]})
    rest = {*CLICKS, *VIEWS, *ADDED, "2026-13", "2026-1"} - {*(parts or ())}
    uses: list[Any] = [{"name": name, "partitions": [*(parts or ()), part]} for part in rest]
    for use in [*uses, *([name, {"name": name, "partitions": []}] if parts is not None else [])]:
        with pytest.raises(OtherDataset):
            verified(use)


def test_a_partition_that_no_origin_shares(ledger: Ledger) -> None:
    """Goal: of a join whose originals have no partition in common, none is permitted by its name; those of the
    originals are."""
    for name, part in (("left", "a"), ("right", "b")):
        ledger.register(name=name, partitions=[part])
    derived_from = [{"name": name, "unit_preserving": True} for name in ("left", "right")]
    ok(ledger.post("/v1/datasets", {"name": "both", "derived_from": derived_from}))
    run = ok(ledger.ask(datasets=["both"]))["id"]
    receipt, keys = ok(ledger.post(f"/v1/runs/{run}/start"))["receipt"], keys_of(ledger)
    permits(receipt, keys, "left", ["a"])
    permits(receipt, keys, "right", ["b"])
    for use in ("both", {"name": "both", "partitions": ["a"]}):
        with pytest.raises(OtherDataset):
            verify_receipt(receipt, jwks=keys, datasets=[use])


def test_ranges(tries: Callable[[int, int], int]) -> None:
    """Goal: a list with ranges means exactly the names that it was made of, to the client and to a reader of
    docs/reference/receipts.md, and many months or shards are a short one. Method: names drawn at random from a few
    prefixes."""
    months = [f"{year}-{month:02}" for year in (2025, 2026) for month in range(1, 13)]
    assert compact(months) == [["2025-01", "2025-12"], ["2026-01", "2026-12"]]
    assert compact(["b", "a", "s9", "s10", "s11", "s12", "x1", "x2"]) == ["a", "b", ["s10", "s12"], "s9", "x1", "x2"]
    shards = [f"shard-{number:04}" for number in range(4096)]
    assert compact(shards) == [["shard-0000", "shard-4095"]]
    seed = random.Random(17)
    pool = [f"{prefix}{number:0{width}}" for prefix in ("", "a", "a-0") for width in (1, 2, 3) for number in range(120)]
    for _ in range(tries(200, 5_000)):
        names = {
            *seed.sample(pool, seed.randint(0, 60)),
            *pool[seed.randint(0, 800) :][: seed.randint(0, 90)],
            "a",
            "z9b",
        }
        items = compact(names)
        assert json.loads(json.dumps(items)) == items
        assert sorted(expanded(items)) == sorted(_partitions(items)) == sorted(names)
    long = ["9" * 62, "1" + "0" * 61, *(f"{'7' * 55}{number:07}" for number in range(9_999_998, 10_000_000))]
    assert sorted(expanded(compact(long))) == sorted(_partitions(compact(long))) == sorted(long)
