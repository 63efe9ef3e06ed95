"""`ledger.accounting.mechanisms`: what is declared is read exactly, and what is no mechanism is refused by name."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from functools import partial
from itertools import product
from typing import Any

import pytest

from ledger.accounting import costs, mechanisms
from ledger.accounting.mechanisms import DpSgd, field_path, planned_steps, segment_steps
from ledger.accounting.terms import Terms
from ledger.errors import InvalidMechanism, InvalidRequest
from tests.accounting.samples import (
    EPOCHS,
    POISSON,
    composed,
    declaration,
    gaussian,
    random_training,
    rate_and_steps,
)


def test_steps_that_count_as_planned(tries: Callable[[int, int], int]) -> None:
    """Goal: from the floor to the ceiling of epochs N/B, exactly; a count is itself; some mechanisms have no steps.
    Method: random declarations in fractions."""
    rng = random.Random(19)
    for _ in range(tries(500, 20_000)):
        declared = random_training(rng, rng.choice(["poisson", "fixed_size", "shuffle"]))
        _, steps = rate_and_steps(declared)
        expected = (steps.numerator // steps.denominator, -(-steps.numerator // steps.denominator))
        if declared["sampling"] == "shuffle" and "epochs" in declared:
            # An epoch of shuffled batches has its partial batch or not.
            batches, epochs = rate_and_steps(declared | {"epochs": 1})[1], Fraction(declared["epochs"])
            expected = min(math.ceil(epochs * math.floor(batches)), expected[0]), math.ceil(epochs * math.ceil(batches))
        assert planned_steps(mechanisms.parse(declared)) == expected
    assert planned_steps(mechanisms.parse(declaration("A07P"))) == (2060, 2061)
    assert planned_steps(mechanisms.parse(gaussian(1, 7))) == (7, 7)
    for declared in (
        {"type": "laplace", "noise_multiplier": 1},
        {"type": "pure_dp", "epsilon": 1},
        {"type": "approximate_dp", "epsilon": 1, "delta": Decimal("0.1")},
    ):
        assert planned_steps(mechanisms.parse({**declared, "count": 3})) == (3, 3)
        assert planned_steps(mechanisms.parse(declared)) == (1, 1)
    assert planned_steps(mechanisms.parse({"type": "gdp", "mu": 1, "evidence": "x"})) is None
    assert planned_steps(mechanisms.parse(composed([gaussian(1)]))) is None


def test_either_form_gives_one_rate_and_number_of_steps() -> None:
    """Goal: both forms of DP-SGD mean the same. Method: one training in each."""
    by_epochs = mechanisms.parse(declaration("A05P"))
    by_rate = mechanisms.parse(
        {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": 5, "sample_rate": 1, "steps": 50}
    )
    assert isinstance(by_epochs, DpSgd)
    assert isinstance(by_rate, DpSgd)
    assert by_epochs.rate == by_rate.rate == 1
    assert by_epochs.exact_steps == by_rate.exact_steps == 50
    first, second = (costs.cost(parsed, Terms(bound="clt", adjacency="replace_one")) for parsed in (by_epochs, by_rate))
    assert first == second


# --- segments --------------------------------------------------------------------------------------------------------

TREE = {"type": "matrix_factorization", "noise_multiplier": 1, "strategy": "tree", "steps": 10}
TREE |= {"participations": 1, "completion": "none"}


@pytest.mark.parametrize(
    ("declared", "segments", "each", "planned"),
    [
        (gaussian(1, 10), 1, 10, (10, 10)),
        (gaussian(1, 10), 3, 4, (10, 12)),
        (gaussian(1, 10), 10, 1, (10, 10)),
        (POISSON, 7, 2, (10, 14)),
        (TREE, 4, 3, (10, 12)),
        # 2060.2 steps: the ceiling is divided.
        (declaration("A07P"), 1, 2061, (2060, 2061)),
        (declaration("A07P"), 2, 1031, (2060, 2062)),
        (declaration("A07P"), 3, 687, (2060, 2061)),
        # Thirty steps are three epochs of ten; an unsegmented run may end within one.
        (EPOCHS, 3, 10, (30, 30)),
        (EPOCHS, 2, 20, (30, 40)),
        (EPOCHS, 30, 10, (30, 300)),
        (EPOCHS | {"epochs": Decimal("2.5")}, 1, 25, (25, 25)),
        (EPOCHS | {"epochs": Decimal("2.5")}, 5, 10, (25, 50)),
        (EPOCHS | {"batch_size": 30}, 2, 8, (9, 16)),  # 100/30 is 3 whole steps, or 4 with the partial one
        (EPOCHS | {"batch_size": 30}, 3, 4, (9, 12)),
    ],
)
def test_segments_divide_the_steps(
    declared: dict[str, Any], segments: int, each: int, planned: tuple[int, int]
) -> None:
    """Goal: ceil(T/k) steps each, of shuffle whole epochs; as planned is up to the end of the last one. Method: cases
    worked out by hand."""
    mechanism = mechanisms.parse(declared)
    assert segment_steps(mechanism, segments) == each
    assert planned_steps(mechanism, segments) == planned


def test_what_cannot_be_divided_is_refused() -> None:
    """Goal: no segments without steps, nor more of them than steps, nor none. Method: one of each, by its field."""
    stated = {"type": "matrix_factorization", "noise_multiplier": 1, "sensitivity": 1, "evidence": "x"}
    whole = ({"type": "gdp", "mu": 1, "evidence": "x"}, {"type": "zcdp", "rho": 1}, stated, composed([gaussian(1)]))
    cases = [(declared, segments) for declared in whole for segments in (2, 3)]
    cases += [(gaussian(1, 10), 11), (POISSON, 11), (TREE, 11), (gaussian(1, 10), 0), (gaussian(1, 10), -1)]
    cases += [(declaration("A07P"), 2061)]  # of 2060.2 steps
    for declared, segments in cases:
        mechanism = mechanisms.parse(declared)
        for refuse in (
            partial(segment_steps, mechanism, segments),
            partial(costs.cost, mechanism, Terms(bound="clt", adjacency="replace_one", segments=segments)),
        ):
            with pytest.raises(InvalidRequest, match=r"^segments: ") as raised:
                refuse()
            assert raised.value.field == "segments"
            assert not isinstance(raised.value, InvalidMechanism)


def test_a_mechanism_is_resized_and_nothing_else_of_it(tries: Callable[[int, int], int]) -> None:
    """Goal: exactly so many steps, at the very same rate, and no other change. Method: random trainings in both forms,
    in fractions; one of each other kind; those without steps refuse."""
    rng = random.Random(22)
    for _ in range(tries(150, 10_000)):
        declared = random_training(rng, rng.choice(["poisson", "fixed_size", "shuffle"]))
        steps = rng.randint(1, 10**12)
        found = mechanisms.parse(declared).resized(steps)
        assert isinstance(found, DpSgd)
        assert found.rate == rate_and_steps(declared)[0]
        assert found.exact_steps == steps
        assert planned_steps(found) == (steps, steps)
        assert (found.noise_multiplier, found.sampling) == (declared["noise_multiplier"], declared["sampling"])
    for name in ("gaussian", "laplace", "pure_dp", "approximate_dp"):
        declared = COMPLETE[name] | {"count": 5}
        assert mechanisms.parse(declared).resized(3) == mechanisms.parse(declared | {"count": 3})
    assert mechanisms.parse(TREE).resized(3) == mechanisms.parse(TREE | {"steps": 3})
    for declared in (COMPLETE["gdp"], {"type": "zcdp", "rho": 1}, composed([gaussian(1)])):
        with pytest.raises(ValueError, match="has no steps"):
            mechanisms.parse(declared).resized(3)


# --- what is not a mechanism -----------------------------------------------------------------------------------------

COMPLETE: dict[str, dict[str, Any]] = {
    "dpsgd by rate": POISSON,
    "dpsgd by epochs": EPOCHS,
    "gaussian": gaussian(1),
    "laplace": {"type": "laplace", "noise_multiplier": 1, "count": 1},
    "pure_dp": {"type": "pure_dp", "epsilon": 1, "count": 1},
    "approximate_dp": {"type": "approximate_dp", "epsilon": 1, "delta": Decimal("1e-5"), "count": 1},
    "gdp": {"type": "gdp", "mu": 1, "delta": Decimal("1e-5"), "evidence": "x"},
}
BAD: dict[str, list[Any]] = {
    **{
        field: [0, -1, "1", True, None, [], {}, Decimal("1e-13"), Decimal("1e13"), Decimal("NaN"), float("inf")]
        for field in ("noise_multiplier", "epsilon", "mu", "epochs")
    },
    "sample_rate": [0, -1, "1", True, Decimal("1.0001"), Decimal("NaN"), []],
    **{
        field: [0, -1, "1", True, Decimal("1.0"), 1.5, 10**13]
        for field in ("steps", "dataset_size", "batch_size", "count")
    },
    "delta": [-1, 1, Decimal("1.5"), "0.1", True, Decimal("1e-301")],
    "sampling": ["cyclic", 1, True, []],
    "evidence": ["", "x" * 2001, 1, True],
}
CASES = [
    (name, field, value)
    for name, declared in COMPLETE.items()
    for field in BAD
    if field in declared
    for value in BAD[field]
]


def refused(declared: Any) -> InvalidMechanism:
    """The error that a declaration is refused with."""
    with pytest.raises(InvalidMechanism) as raised:
        mechanisms.parse(declared)
    assert raised.value.facts["field"] == raised.value.field
    assert str(raised.value).startswith(f"{raised.value.field}: ")
    return raised.value


@pytest.mark.parametrize(("name", "field", "value"), CASES)
def test_a_bad_field_is_named(name: str, field: str, value: Any) -> None:
    """Goal: whatever is wrong with a field, the error names it, alone and in a composition. Method: every field of
    every mechanism, each with values of the wrong type, sign, range and size."""
    bad = {**COMPLETE[name], field: value}
    if value is None and field == "epochs":  # as if it were left out
        assert refused(bad).field == "mechanism"
        return
    assert refused(bad).field == f"mechanism.{field}"
    assert refused(composed([gaussian(1), bad])).field == f"mechanism.parts.1.{field}"


@pytest.mark.parametrize("name", COMPLETE)
def test_every_mechanism_is_taken_as_declared(name: str) -> None:
    """Goal: the declarations above are good ones, and so is a composition of each. Method: parse, and read back."""
    parsed = mechanisms.parse(COMPLETE[name])
    assert parsed.model_dump(exclude_none=True) == COMPLETE[name]
    assert mechanisms.parse(composed([COMPLETE[name]])).model_dump(exclude_none=True)["parts"] == [COMPLETE[name]]


@pytest.mark.parametrize("name", COMPLETE)
def test_unknown_and_missing_fields_are_named(name: str) -> None:
    """Goal: a misspelt or forgotten field is named, even one called as a mechanism is, or as the validator's own
    locations are. Method: add one; leave out each that has no default."""
    declared = COMPLETE[name]
    for extra in ("noise", "gaussian", "dpsgd", "function-x", "parts", "0", ""):
        assert refused({**declared, extra: 1}).field == f"mechanism.{extra}"
        assert refused(composed([gaussian(1), {**declared, extra: 1}])).field == f"mechanism.parts.1.{extra}"
    for field in declared.keys() & {"noise_multiplier", "sampling", "epsilon", "mu", "evidence"}:
        without = {key: value for key, value in declared.items() if key != field}
        assert refused(without).field == f"mechanism.{field}"
        assert refused(composed([without])).field == f"mechanism.parts.0.{field}"
    if name == "approximate_dp":
        assert refused({"type": "approximate_dp", "epsilon": 1}).field == "mechanism.delta"


def test_dpsgd_takes_one_form_whole() -> None:
    """Goal: by rate and steps, or by sizes and epochs: all of one, nothing of the other. Method: every other subset."""
    rate_fields, epoch_fields = ("sample_rate", "steps"), ("dataset_size", "batch_size", "epochs")
    values = {**EPOCHS, **POISSON}
    for chosen in product((False, True), repeat=5):
        fields = {name for name, taken in zip((*rate_fields, *epoch_fields), chosen, strict=True) if taken}
        declared = {name: values[name] for name in ("type", "noise_multiplier", "sampling", *fields)}
        if fields in (set(rate_fields), set(epoch_fields)):
            assert isinstance(mechanisms.parse(declared), DpSgd)
            continue
        if fields == {"batch_size", "epochs"}:  # the dataset's own size may stand for it, where there is a dataset
            assert refused(declared).field == "mechanism.dataset_size"
            continue
        assert "either sample_rate and steps, or dataset_size, batch_size and epochs" in str(refused(declared))
        assert refused(declared).field == "mechanism"
        assert refused(composed([gaussian(1), declared])).field == "mechanism.parts.1"


def test_a_batch_is_no_larger_than_the_dataset() -> None:
    """Goal: a sample rate above 1 is refused in both forms. Method: one unit more than there is."""
    whole = mechanisms.parse({**EPOCHS, "batch_size": 100})
    assert costs.cost(whole, Terms(bound="clt", adjacency="add_or_remove_one")).mu_sq == 3
    assert "batch_size must be at most dataset_size" in str(refused({**EPOCHS, "batch_size": 101}))
    assert refused({**POISSON, "sample_rate": Decimal("1.01")}).field == "mechanism.sample_rate"


def test_part_of_a_step_is_no_training() -> None:
    """Goal: what is charged for less than a step cannot be settled as a step. Method: one step exactly, a little more,
    and a little less, which is refused, in words that name epochs."""
    assert planned_steps(mechanisms.parse({**EPOCHS, "epochs": Decimal("0.1")})) == (1, 1)
    assert planned_steps(mechanisms.parse({**EPOCHS, "epochs": Decimal("0.1000001")})) == (1, 2)
    for epochs in ("0.09999999999999999999999999999999", "1e-12"):
        for declared, field in (
            ({**EPOCHS, "epochs": Decimal(epochs)}, "mechanism"),
            (composed([{**EPOCHS, "epochs": Decimal(epochs)}]), "mechanism.parts.0"),
        ):
            assert refused(declared).field == field
            assert "epochs must be at least batch_size/dataset_size" in str(refused(declared))


NO_TYPES: list[Any] = ["", "dp-sgd", "Gaussian", None, 1, True, [], {}, ["gaussian"]]
NO_MECHANISMS: list[Any] = [None, 1, "gaussian", [], [{"type": "gaussian"}], True]
NO_PARTS: list[Any] = [[], {}, None, "x", 1]


@pytest.mark.parametrize(
    ("declared", "field"),
    [
        ({}, "mechanism.type"),
        ({"noise_multiplier": 1}, "mechanism.type"),
        *(({"type": kind}, "mechanism.type") for kind in NO_TYPES),
        *((declared, "mechanism") for declared in NO_MECHANISMS),
        ({"type": "composed"}, "mechanism.parts"),
        *(({"type": "composed", "parts": parts}, "mechanism.parts") for parts in NO_PARTS),
        (composed([gaussian(1)] * 101), "mechanism.parts"),
        (composed([{}]), "mechanism.parts.0.type"),
        (composed([gaussian(1), None]), "mechanism.parts.1"),
        (composed([gaussian(1), composed([gaussian(1)])]), "mechanism.parts.1.type"),
        ({**composed([gaussian(1)]), "count": 2}, "mechanism.count"),
    ],
    ids=str,
)
def test_what_is_no_mechanism_is_refused(declared: Any, field: str) -> None:
    """Goal: any JSON at all is answered with InvalidMechanism and the place. Method: types missing, wrong, unhashable;
    parts that are none, too many or nested."""
    assert refused(declared).field == field


def test_locations_become_paths() -> None:
    """Goal: tags of unions and names of validators are no part of a path; fields of such names are. Method: a few."""
    for location, path in (
        (("mechanism", "dpsgd", "noise_multiplier"), "mechanism.noise_multiplier"),
        (("mechanism", "composed", "parts", 3, "gdp", "mu"), "mechanism.parts.3.mu"),
        (("mechanism", "gaussian", "gaussian"), "mechanism.gaussian"),
        (("labels", "dpsgd"), "labels.dpsgd"),
        (("budget", "function-after[check(), model]", "mu"), "budget.mu"),
        (("mechanism",), "mechanism"),
        ((), ""),
    ):
        assert field_path(location) == path
