"""DP-SGD by how its batches are drawn: what may be declared, what it costs, and how it settles and is solved for."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import pytest

from ledger.accounting import costs, mechanisms, plan, residual, settling
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import DpSgd
from ledger.accounting.restarts import Restart
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism
from tests.accounting.samples import composed, gaussian
from tests.kit import certified

DELTA: Final = Fraction(1, 10**7)
RATE: Final[dict[str, Any]] = {"type": "dpsgd", "noise_multiplier": 2, "sample_rate": Decimal("0.01"), "steps": 50}
CAPPED: Final = RATE | {"sampling": "poisson", "dataset_size": 10_000, "truncated_batch_size": 130}
USERS: Final = RATE | {"sampling": "poisson", "max_examples_per_user": 3}
FIXED: Final = RATE | {"sampling": "fixed_size", "dataset_size_min": 10_000}
EPOCHS: Final[dict[str, Any]] = {"type": "dpsgd", "noise_multiplier": 2, "dataset_size": 10_000, "batch_size": 100}
EPOCHS["epochs"] = Decimal("0.5")
KINDS: Final = {"pld-poisson-truncated": CAPPED, "pld-poisson-user": USERS, "pld-fixed-size": FIXED}


def terms(adjacency: Adjacency = "add_or_remove_one", bound: Bound = "certified", **rest: Any) -> Terms:
    """The terms of a run, with a usual share of delta."""
    return Terms(bound=bound, adjacency=adjacency, **{"delta": DELTA, **rest})


def cost(declared: dict[str, Any], adjacency: Adjacency = "add_or_remove_one", **rest: Any) -> Cost:
    """What it is charged."""
    return costs.cost(mechanisms.parse(declared), terms(adjacency, **rest))


def refused(declared: Any) -> InvalidMechanism:
    """The error that a declaration is refused with."""
    with pytest.raises(InvalidMechanism) as raised:
        mechanisms.parse(declared)
    assert raised.value.field in ("mechanism", "mechanism.dataset_size")
    return raised.value


# --- what may be declared ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (CAPPED | {"dataset_size": None}, "dataset_size: is missing: the number of units"),
        (CAPPED | {"sampling": "fixed_size"}, "truncated_batch_size belongs to poisson"),
        (CAPPED | {"sampling": "shuffle"}, "truncated_batch_size belongs to poisson"),
        (CAPPED | {"truncated_batch_size": None}, "dataset_size goes with sample_rate and steps only beside truncated"),
        (CAPPED | {"max_examples_per_user": 2}, "exclude each other: no cost is proved of a capped batch"),
        (USERS | {"sampling": "shuffle"}, "max_examples_per_user belongs to poisson"),
        (USERS | {"sampling": "fixed_size"}, "max_examples_per_user belongs to poisson"),
        (FIXED | {"sampling": "poisson"}, "dataset_size_min belongs to fixed_size"),
        (FIXED | {"sampling": "shuffle"}, "dataset_size_min belongs to fixed_size"),
        (FIXED | {"dataset_size_min": 99}, "dataset_size_min must be at least 1/sample_rate"),
        (EPOCHS | {"sampling": "fixed_size", "dataset_size_min": 10_001}, "must be at most dataset_size"),
        (EPOCHS | {"sampling": "fixed_size", "dataset_size_min": 99}, "batch_size must be at most dataset_size_min"),
    ],
)
def test_a_declaration_is_whole_and_goes_together(declared: dict[str, Any], reason: str) -> None:
    """Goal: what is missing, or not proved of a combination, is named. Method: one of each, alone and as a part."""
    given = {name: value for name, value in declared.items() if value is not None}
    assert reason in str(refused(given))
    with pytest.raises(InvalidMechanism) as raised:
        mechanisms.parse(composed([gaussian(1), given]))
    assert str(raised.value.field).removesuffix(".dataset_size") == "mechanism.parts.1"


@pytest.mark.parametrize("field", ["truncated_batch_size", "max_examples_per_user", "dataset_size_min"])
@pytest.mark.parametrize("value", [0, -1, "1", True, Decimal("1.0"), 10**13])
def test_a_bad_number_is_named(field: str, value: Any) -> None:
    """Goal: a number of the wrong type or size is refused by its field. Method: each field, with such values."""
    with pytest.raises(InvalidMechanism) as raised:
        mechanisms.parse(RATE | {"sampling": "poisson", field: value})
    assert raised.value.field == f"mechanism.{field}"


def test_records_have_a_most() -> None:
    """Goal: the work is bounded. Method: one record more than may be."""
    with pytest.raises(InvalidMechanism) as raised:
        mechanisms.parse(USERS | {"max_examples_per_user": 10_001})
    assert raised.value.field == "mechanism.max_examples_per_user"


def test_both_forms_mean_the_same() -> None:
    """Goal: by epochs, a cap and a least size cost what they cost by rate and steps. Method: one training in each."""
    for by_rate, extra in (
        (CAPPED, {"sampling": "poisson", "truncated_batch_size": 130}),
        (USERS, {"sampling": "poisson", "max_examples_per_user": 3}),
        (FIXED, {"sampling": "fixed_size", "dataset_size_min": 10_000}),
    ):
        assert cost(EPOCHS | extra) == cost(by_rate)
    # The rate of a unit that is added is the batch over the least size.
    fewer = cost(EPOCHS | {"sampling": "fixed_size", "dataset_size_min": 5_000})
    assert fewer == cost(FIXED | {"sample_rate": Decimal("0.02")})


@pytest.mark.parametrize(
    ("declared", "adjacency", "field"),
    [
        (USERS, "replace_one", "max_examples_per_user"),
        (RATE | {"sampling": "fixed_size"}, "add_or_remove_one", "dataset_size_min"),
        (FIXED, "replace_one", "dataset_size_min"),
        (FIXED, "zero_out", "dataset_size_min"),
    ],
)
def test_what_is_not_proved_is_refused_by_its_field(declared: Any, adjacency: Adjacency, field: str) -> None:
    """Goal: no number where nothing is proved, and the field and the reason are named. Method: each such case."""
    with pytest.raises(InvalidMechanism, match=rf"^mechanism.{field}: ") as raised:
        cost(declared, adjacency)
    assert raised.value.facts["field"] == f"mechanism.{field}"
    with pytest.raises(InvalidMechanism, match=rf"^mechanism.parts.1.{field}: "):
        cost(composed([gaussian(1), declared]), adjacency)


def test_estimates_are_known_of_published_formulas_alone() -> None:
    """Goal: the bound clt has no estimate of a cap or of several records, and says so; a least size changes nothing in
    the published convention. Method: each of them; an emptied unit costs like one that is removed, or replaced."""
    for declared, field in ((CAPPED, "truncated_batch_size"), (USERS, "max_examples_per_user")):
        with pytest.raises(InvalidMechanism, match=rf"^mechanism.{field}: no central-limit estimate"):
            cost(declared, bound="clt")
    plain = RATE | {"sampling": "fixed_size"}
    assert cost(FIXED, bound="clt").mu_sq == cost(plain, bound="clt").mu_sq
    assert cost(plain, "zero_out", bound="clt").mu_sq == cost(plain, "replace_one", bound="clt").mu_sq
    poisson = RATE | {"sampling": "poisson"}
    assert cost(poisson, "zero_out", bound="clt").mu_sq == cost(poisson, bound="clt").mu_sq


# --- what it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", KINDS)
def test_a_cost_names_its_method_and_what_it_assumes(method: str) -> None:
    """Goal: each has a certificate of its own name, which says what the sampler must do, and costs more than plain
    Poisson, whose answer names what it is confused with."""
    found = cost(KINDS[method])
    assert found.method == method
    field = {
        "pld-poisson-truncated": "truncated_batch_size",
        "pld-poisson-user": "max_examples_per_user",
        "pld-fixed-size": "dataset_size_min",
    }[method]
    assert any(field in said for said in found.assumptions)
    plain = cost(RATE | {"sampling": "poisson"})
    assert plain.mu < found.mu
    assert any("truncated_batch_size" in said and "max_examples_per_user" in said for said in plain.assumptions)


def test_parts_of_all_kinds_are_certified_together() -> None:
    """Goal: the kinds compose with one another. Method: all of them, beside the sum of their parts' costs."""
    together = cost(composed([CAPPED, USERS, FIXED, RATE | {"sampling": "poisson"}]))
    assert together.method == "composed: pld-poisson-truncated-poisson-user-fixed-size-poisson"
    parts = (CAPPED, USERS, FIXED, RATE | {"sampling": "poisson"})
    assert max(cost(part).mu_sq for part in parts) < together.mu_sq
    assert together.mu_sq < sum(cost(part, delta=DELTA / 4).mu_sq for part in parts)


@pytest.mark.parametrize(
    ("declared", "adjacency", "factor"),
    [
        (CAPPED, "add_or_remove_one", 4),
        (CAPPED, "replace_one", 4),
        (CAPPED, "zero_out", 1),
        (USERS, "add_or_remove_one", 9),
        (USERS, "zero_out", 9),
        (FIXED, "add_or_remove_one", 4),
        (RATE | {"sampling": "fixed_size"}, "replace_one", 4),
        (RATE | {"sampling": "fixed_size"}, "zero_out", 1),
        (RATE | {"sampling": "poisson"}, "zero_out", 1),
        (RATE | {"sampling": "shuffle"}, "zero_out", 1),
    ],
)
def test_without_amplification_a_step_is_one_release(declared: Any, adjacency: Adjacency, factor: int) -> None:
    """Goal: where nothing is hidden, each step is a Gaussian release of what a unit can move. Method: no delta."""
    found = cost(declared, adjacency, delta=0)
    steps = 1 if declared["sampling"] == "shuffle" else declared["steps"]
    assert found.mu_sq == Fraction(factor * steps, declared["noise_multiplier"] ** 2)
    assert found.method == ("shuffle" if declared["sampling"] == "shuffle" else "fallback")


def test_a_cap_on_everything_is_a_batch_of_fixed_size() -> None:
    """Goal: where every unit is sampled, a cap still hides who is in the batch. Method: beside fixed-size sampling at
    the same rate, whose pair is no worse; and a cap that nothing exceeds hides nothing."""
    whole = CAPPED | {"sample_rate": 1, "truncated_batch_size": 100}
    found = cost(whole, "replace_one")
    fixed = cost(RATE | {"sampling": "fixed_size"}, "replace_one")
    assert found.method == "pld-poisson-truncated"
    assert fixed.mu <= found.mu < 1.2 * fixed.mu
    assert cost(whole | {"truncated_batch_size": 10_000}).method == "fallback"


def test_little_noise_has_no_certificate_but_a_cost() -> None:
    """Goal: where records are too many for the noise, the cost is the one without sampling. Method: k/s of 1,000."""
    found = cost(USERS | {"max_examples_per_user": 2_000, "sample_rate": Decimal("0.5")})
    assert (found.method, found.mu_sq) == ("fallback", Fraction(50 * 2_000**2, 4))


@pytest.mark.parametrize("method", KINDS)
def test_one_segment_of_many_and_a_single_step(method: str) -> None:
    """Goal: segments and single steps have certificates too. Method: fifty segments of one step each."""
    found = cost(KINDS[method], segments=50)
    one = cost(KINDS[method] | {"steps": 1}, delta=DELTA / 50)
    assert (found.method, found.mu_sq) == (one.method, 50 * one.mu_sq) == (method, 50 * one.mu_sq)
    assert found.mu > cost(KINDS[method]).mu


@pytest.mark.parametrize("method", KINDS)
def test_costs_beside_what_is_left_fall(method: str) -> None:
    """Goal: residual costs begin at the certificate, or below, and fall. Method: five levels."""
    mechanism = mechanisms.parse(KINDS[method])
    alone = costs.cost(mechanism, terms())
    table = residual.residual_costs(mechanism, terms(), [0, 10**10, 10**11, 10**12, 4 * 10**12])
    assert table[0] <= alone.amount.mu_sq_pico
    assert list(table) == sorted(table, reverse=True)
    assert 1 <= table[-1] < table[0]


# --- how it settles ---------------------------------------------------------------------------------------------------


def _settled(declared: Any, adjacency: Adjacency, **how: Any) -> tuple[Cost, settling.Charge]:
    mechanism = mechanisms.parse(declared)
    found = costs.cost(mechanism, terms(adjacency))
    charge = settling.charge(mechanism, terms(adjacency), approved=found.amount, method=found.method, **how)
    return found, charge


@pytest.mark.parametrize(
    ("declared", "adjacency", "factor"),
    [
        (CAPPED, "add_or_remove_one", 4),
        (CAPPED, "zero_out", 4),
        (USERS, "zero_out", 9),
        (FIXED, "add_or_remove_one", 4),
        (RATE | {"sampling": "fixed_size"}, "zero_out", 4),
        (RATE | {"sampling": "poisson"}, "zero_out", 1),
    ],
)
def test_a_batch_that_is_used_again_is_a_release(declared: Any, adjacency: Adjacency, factor: int) -> None:
    """Goal: a step that is repeated with the same batch costs what a unit moves it by, whoever else is in it; with a
    new batch it is a further step. Method: five of each."""
    again = (Restart(11, 15, new_batches=False),)
    found, charge = _settled(declared, adjacency, steps=55, stop="planned", restarts=again)
    assert found.method.startswith("pld-")
    assert charge.charged == found.amount
    assert charge.excess is not None
    assert charge.excess.mu_sq == Fraction(5 * factor, 4)
    new = (Restart(11, 15, new_batches=True),)
    _, charge = _settled(declared, adjacency, steps=50, stop="planned", restarts=new)
    assert (charge.charged, charge.excess) == (found.amount, None)


@pytest.mark.parametrize("method", ["pld-poisson-truncated", "pld-poisson-user"])
def test_a_run_that_ends_early_or_late(method: str) -> None:
    """Goal: a number of steps that nothing decided is a run of that many; beyond the plan it is one more run; what an
    output decided is charged in whole plans. Method: the certificates of these numbers."""
    short = cost(KINDS[method] | {"steps": 20})
    _, charge = _settled(KINDS[method], "add_or_remove_one", steps=20, stop="data_independent", restarts=())
    assert charge.charged == short.amount
    found, charge = _settled(KINDS[method], "add_or_remove_one", steps=70, stop="data_independent", restarts=())
    assert (charge.charged, charge.excess and charge.excess.mu_sq) == (found.amount, short.mu_sq)
    _, charge = _settled(KINDS[method], "add_or_remove_one", steps=70, stop="data_dependent", restarts=())
    assert charge.excess is not None
    assert charge.excess.amount.mu_sq_pico == found.amount.mu_sq_pico


# --- what can be solved for -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "parameter"),
    [("pld-poisson-truncated", "noise_multiplier"), ("pld-poisson-user", "steps"), ("pld-fixed-size", "sample_rate")],
)
def test_the_parameters_are_solved_for(method: str, parameter: str) -> None:
    """Goal: the value that is found fits, and what is beside it does not. Method: its cost, and that of a neighbour."""
    mechanism = mechanisms.parse(KINDS[method])
    found = cost(KINDS[method])
    remaining = Amount(found.amount.mu_sq_pico * 3, found.amount.delta_atto)
    solution = plan.solve(mechanism, terms(), solve_for=parameter, remaining=remaining)
    assert solution is not None
    assert not cost(KINDS[method] | {parameter: solution.value}).amount.exceeds(remaining)
    beyond: Any = solution.value + 1 if parameter == "steps" else Decimal(solution.value)
    if parameter != "steps":
        beyond *= Decimal("0.9999") if parameter == "noise_multiplier" else Decimal("1.0001")
    assert cost(KINDS[method] | {parameter: beyond}).amount.exceeds(remaining)


# --- what rests on the number of units --------------------------------------------------------------------------------


def test_fields_that_rest_on_the_size_are_named() -> None:
    """Goal: a derived dataset, whose size is not public, refuses what rests on it, by its field."""
    for declared, fields in (
        (CAPPED, ["mechanism.truncated_batch_size"]),
        (USERS, []),
        (FIXED, ["mechanism.sampling"]),
        (RATE | {"sampling": "poisson"}, []),
        (RATE | {"sampling": "shuffle"}, ["mechanism.sampling"]),
    ):
        mechanism = mechanisms.parse(declared)
        assert isinstance(mechanism, DpSgd)
        assert mechanism.resting_on_size("mechanism") == fields


def test_the_certificate_s_kit_agrees() -> None:
    """Goal: a mechanism hands its numbers to the pair that is meant. Method: plain sampling, straight and declared."""
    straight = certified.subsampled_gaussian(
        noise_multiplier=2.0, sample_rate=0.01, steps=50, delta=1e-7, adjacency="zero_out"
    )
    assert cost(RATE | {"sampling": "poisson"}, "zero_out").mu == pytest.approx(straight.mu, rel=1e-6)
    removed = cost(RATE | {"sampling": "poisson"})
    assert removed.mu == pytest.approx(straight.mu, rel=1e-6)
