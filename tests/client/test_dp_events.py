"""Events of dp-accounting as mechanisms, and the other way: nothing is charged less than its own accountant does."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import dp_accounting
import pytest
from dp_accounting import pld, rdp

from ledger.accounting import costs, mechanisms
from ledger.accounting.gdp import epsilon_upper
from ledger.accounting.terms import Terms
from ledger.client import DPSGD, Composed, DPSGDSchedule, Gaussian, Laplace, MatrixFactorization, PureDP, ZCdp
from ledger.client.dp_events import from_dp_event, to_dp_event, to_json
from ledger.client.dp_events.events import FIELDS, NODES_MAX
from ledger.client.mechanisms import RandomizedResponse, declared
from ledger.errors import InvalidMechanism, InvalidRequest

E: Final = dp_accounting.dp_event
RELATION: Final = dp_accounting.NeighboringRelation
ADJACENCIES: Final = {
    "add_or_remove_one": RELATION.ADD_OR_REMOVE_ONE,
    "replace_one": RELATION.REPLACE_ONE,
    "zero_out": RELATION.REPLACE_SPECIAL,
}
DELTA: Final = 1e-5
SHARE: Final = Fraction(1, 10**8)
NOISE: Final = E.GaussianDpEvent(4.0)
ANSWER: Final = E.RandomizedResponseDpEvent(0.5, 4)
EVENTS: Final[dict[str, tuple[Any, str]]] = {
    "gaussian": (E.SelfComposedDpEvent(NOISE, 3), "add_or_remove_one replace_one zero_out"),
    "laplace": (E.SelfComposedDpEvent(E.LaplaceDpEvent(5.0), 2), "add_or_remove_one zero_out"),
    "discrete laplace": (E.DiscreteLaplaceDpEvent(0.125, 2), "add_or_remove_one zero_out"),
    "poisson": (
        E.SelfComposedDpEvent(E.PoissonSampledDpEvent(0.1, NOISE), 20),
        "add_or_remove_one replace_one zero_out",
    ),
    "poisson of everybody": (E.PoissonSampledDpEvent(1.0, NOISE), "add_or_remove_one replace_one"),
    "truncated": (E.TruncatedSubsampledGaussianDpEvent(100, 0.1, 12, 8.0), "add_or_remove_one replace_one zero_out"),
    "answers": (E.SelfComposedDpEvent(ANSWER, 3), "replace_one zero_out"),
    "users": (E.MixtureOfGaussiansDpEvent(8.0, [0.0, 1.0, 2.0], [0.81, 0.18, 0.01]), "add_or_remove_one zero_out"),
    "several": (
        E.ComposedDpEvent([E.NoOpDpEvent(), NOISE, E.PoissonSampledDpEvent(0.1, E.GaussianDpEvent(6.0))]),
        "add_or_remove_one replace_one",
    ),
}
CASES: Final = [
    pytest.param(event, adjacency, id=f"{name}-{adjacency}")
    for name, (event, names) in EVENTS.items()
    for adjacency in names.split()
]


def flat(event: Any, count: int = 1) -> list[tuple[Any, int]]:
    """The leaves of a tree with their counts, for a composition in which repeated answers count."""
    if isinstance(event, E.SelfComposedDpEvent):
        return flat(event.event, count * event.count)
    if isinstance(event, E.ComposedDpEvent):
        return [leaf for inner in event.events for leaf in flat(inner, count)]
    return [(event, count)]


def theirs(event: Any, adjacency: str) -> float:
    """The epsilon of an event at DELTA by PLDAccountant, with repeated answers composed one by one."""
    # Mixtures take long on a fine grid.
    width = 1e-3 if isinstance(event, E.MixtureOfGaussiansDpEvent) else 1e-4
    accountant = pld.PLDAccountant(ADJACENCIES[adjacency], value_discretization_interval=width)
    for leaf, count in flat(event):
        each = 1 if isinstance(leaf, E.RandomizedResponseDpEvent) else count
        for _ in range(count // each):
            accountant.compose(leaf, each)
    return float(accountant.get_epsilon(DELTA))


def ours(mechanism: Any, adjacency: Any) -> float:
    """The epsilon of a mechanism's certified cost at DELTA, or its exact one if that is smaller."""
    facts = json.loads(json.dumps(declared(mechanism), default=float), parse_float=Decimal)
    cost = costs.cost(mechanisms.parse(facts), Terms(bound="certified", adjacency=adjacency, delta=SHARE))
    return float(epsilon_upper(mu=cost.mu, delta=float(cost.delta), at_delta=DELTA))


@pytest.mark.parametrize(("event", "adjacency"), CASES)
def test_an_event_is_never_charged_less_than_its_accountant_does(event: Any, adjacency: str) -> None:
    """Goal: the mechanism of an event costs at least what dp-accounting finds under the same relation, in every form
    in which an event is given. Method: its PLDAccountant, whose rounding may exceed the truth by some thousandths."""
    mechanism = from_dp_event(event, adjacency=ADJACENCIES[adjacency])
    assert ours(mechanism, adjacency) >= theirs(event, adjacency) * (1 - 2e-3)
    for form in (event.to_named_tuple(), json.loads(json.dumps(to_json(event)))):
        assert from_dp_event(form, adjacency=adjacency) == mechanism


ROUND_TRIPS: Final = [
    (Gaussian(noise_multiplier=5.0, count=3), "add_or_remove_one replace_one zero_out"),
    (Laplace(noise_multiplier=5.0, count=3), "add_or_remove_one zero_out"),
    (ZCdp(rho=0.25), "add_or_remove_one replace_one zero_out"),
    (PureDP(epsilon=0.5, count=2), "add_or_remove_one zero_out"),
    (DPSGD(noise_multiplier=1.1, sample_rate=0.01, steps=500), "add_or_remove_one replace_one zero_out"),
    (
        DPSGD(noise_multiplier=1.1, sample_rate=0.01, steps=500, truncated_batch_size=20, dataset_size=1_000),
        "add_or_remove_one replace_one zero_out",
    ),
    (
        DPSGDSchedule.from_steps(noise_multipliers=[1.5, 1.5, 1.25], sample_rates=0.01),
        "add_or_remove_one replace_one zero_out",
    ),
    (
        MatrixFactorization(noise_multiplier=9.0, strategy="tree", steps=100, participations=1, completion="none"),
        "zero_out",
    ),
    (
        Composed(parts=[Gaussian(noise_multiplier=5.0), DPSGD(noise_multiplier=1.5, sample_rate=0.5, steps=2)]),
        "add_or_remove_one replace_one zero_out",
    ),
]


@pytest.mark.parametrize(
    ("mechanism", "adjacency"),
    [(mechanism, adjacency) for mechanism, names in ROUND_TRIPS for adjacency in names.split()],
)
def test_a_mechanism_comes_back(mechanism: Any, adjacency: str) -> None:
    """Goal: a mechanism that has an event is the mechanism of that event. Method: there and back."""
    assert from_dp_event(to_dp_event(mechanism, adjacency=adjacency), adjacency=adjacency) == mechanism


def test_what_comes_back_near() -> None:
    """Goal: where a number must be computed, what comes back costs no less, and next to nothing more."""
    many = DPSGD(noise_multiplier=2.0, sample_rate=0.1, steps=2, max_examples_per_user=3)
    back: Any = from_dp_event(to_dp_event(many, adjacency="zero_out"), adjacency="zero_out")
    assert back.max_examples_per_user == 3
    assert 0.1 <= back.sample_rate <= 0.1 * (1 + 1e-10)
    answers = RandomizedResponse(epsilon=1.25, categories=5, count=3)
    event = to_dp_event(answers, adjacency="replace_one")
    assert isinstance(event, E.ComposedDpEvent)
    back = from_dp_event(event, adjacency="replace_one")
    assert (back.categories, back.count) == (5, 3)
    assert 1.25 <= back.epsilon <= 1.25 * (1 + 1e-13)
    least = DPSGD(noise_multiplier=4.0, sample_rate=0.1, steps=2, sampling="fixed_size", dataset_size_min=90)
    assert from_dp_event(to_dp_event(least, adjacency="add_or_remove_one"), adjacency="add_or_remove_one") == DPSGD(
        noise_multiplier=2.0, sample_rate=0.1, steps=2
    )
    banded = MatrixFactorization(
        noise_multiplier=2.0,
        strategy="toeplitz",
        coefficients=[0.6, 0.8],
        steps=7,
        sampling="cyclic_poisson",
        sample_rate=0.1,
    )
    back = from_dp_event(to_dp_event(banded, adjacency="zero_out"), adjacency="zero_out")
    assert (back.sample_rate, back.steps) == (0.1, 4)
    assert 2 * (1 - 1e-14) <= back.noise_multiplier <= 2
    epochs = DPSGD(noise_multiplier=2.0, dataset_size=1_000, batch_size=300, epochs=1.0)
    back = from_dp_event(to_dp_event(epochs, adjacency="zero_out"), adjacency="zero_out")
    assert (back.sample_rate, back.steps) == (math.nextafter(0.3, 1), 4)  # 0.3 as a float is less than 3/10


def test_the_relation_counts_where_the_accountants_differ() -> None:
    """Goal: under replace_one a Gaussian costs what PLDAccountant finds, which is twice what RdpAccountant does, and
    repeated answers cost all of them. Method: both accountants of dp-accounting beside the ledger's cost."""
    release = E.GaussianDpEvent(2.0)
    epsilons = {}
    for kind in (rdp.RdpAccountant, pld.PLDAccountant):
        accountant = kind(neighboring_relation=RELATION.REPLACE_ONE)
        epsilons[kind] = float(accountant.compose(release).get_epsilon(DELTA))
    found = ours(from_dp_event(release, adjacency="replace_one"), "replace_one")
    assert found >= epsilons[pld.PLDAccountant] * (1 - 1e-3)
    assert found > 1.9 * epsilons[rdp.RdpAccountant]
    assert from_dp_event(release, adjacency="add_or_remove_one") == Gaussian(noise_multiplier=2.0)
    ten = pld.PLDAccountant(neighboring_relation=RELATION.REPLACE_ONE).compose(E.SelfComposedDpEvent(ANSWER, 10))
    costed: Any = from_dp_event(E.SelfComposedDpEvent(ANSWER, 10), adjacency="replace_one")
    assert costed.count == 10
    assert ours(costed, "replace_one") > 3 * float(ten.get_epsilon(DELTA))
    fixed = E.SelfComposedDpEvent(E.SampledWithoutReplacementDpEvent(1_000, 300, NOISE), 5)
    assert from_dp_event(fixed, adjacency="replace_one") == DPSGD(
        noise_multiplier=4.0, sample_rate=Decimal("0.3"), steps=5, sampling="fixed_size"
    )


def test_several_releases_on_one_sample() -> None:
    """Goal: Gaussian releases on one sample are one with s^-2 = the sum of theirs, never with more noise."""
    within = E.ComposedDpEvent([E.SelfComposedDpEvent(E.GaussianDpEvent(3.0), 2), E.GaussianDpEvent(5.0)])
    mechanism: Any = from_dp_event(E.PoissonSampledDpEvent(0.1, within), adjacency="zero_out")
    exact = 1 / (Fraction(2, 9) + Fraction(1, 25))
    assert 0 <= exact - Fraction(mechanism.noise_multiplier) ** 2 < Fraction(1, 10**25)


REFUSED: Final = {
    "NonPrivateDpEvent": (E.NonPrivateDpEvent(), "add_or_remove_one", "has no guarantee"),
    "UnsupportedDpEvent": (E.UnsupportedDpEvent(), "add_or_remove_one", "cannot account"),
    "SampledWithReplacementDpEvent": (E.SampledWithReplacementDpEvent(9, 3, NOISE), "replace_one", "comes nearest"),
    "SampledWithoutReplacementDpEvent": (
        E.SampledWithoutReplacementDpEvent(9, 3, NOISE),
        "add_or_remove_one",
        "dataset_size_min",
    ),
    "RepeatAndSelectDpEvent": (E.RepeatAndSelectDpEvent(NOISE, 3.0, 1.0), "zero_out", "a run for each trial"),
    "RandomizedResponseDpEvent": (ANSWER, "add_or_remove_one", "who answers is public"),
    "SingleEpochTreeAggregationDpEvent": (
        E.SingleEpochTreeAggregationDpEvent(2.0, [4, 8]),
        "replace_one",
        "strategy tree",
    ),
    "ZCDpEvent": (E.ZCDpEvent(0.1, 0.1), "zero_out", "an xi other than 0"),
    "MixtureOfGaussiansDpEvent": (
        E.MixtureOfGaussiansDpEvent(2.0, [0.0, 1.0, 3.0], [0.8, 0.1, 0.1]),
        "zero_out",
        "max_examples_per_user",
    ),
    "PoissonSampledDpEvent": (E.PoissonSampledDpEvent(0.1, E.LaplaceDpEvent(2.0)), "zero_out", "without the sampling"),
    "GaussianDpEvent": (E.GaussianDpEvent(0.0), "zero_out", "is no noise"),
    "LaplaceDpEvent": (E.LaplaceDpEvent(float("inf")), "zero_out", "must be a finite number"),
    "NoOpDpEvent": (E.NoOpDpEvent(), "zero_out", "nothing is released"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_event_without_a_sound_cost_is_refused_by_name(name: str) -> None:
    """Goal: what has no sound cost under a relation is refused with its name, its path and what comes nearest."""
    event, adjacency, text = REFUSED[name]
    with pytest.raises(InvalidMechanism) as refused:
        from_dp_event(event, adjacency=adjacency)
    assert f"event: {name}: " in refused.value.detail
    assert text in refused.value.detail
    if name != "NoOpDpEvent":
        with pytest.raises(InvalidMechanism) as refused:
            from_dp_event(E.ComposedDpEvent([E.NoOpDpEvent(), E.SelfComposedDpEvent(event, 2)]), adjacency=adjacency)
        assert refused.value.field == "event.events[1].event"


def test_all_events_of_the_library_are_known() -> None:
    """Goal: no event of the installed dp-accounting, and no field of one, is unknown here. Method: its classes."""
    classes: dict[str, Any] = {
        name: kind for name, kind in vars(E).items() if isinstance(kind, type) and issubclass(kind, E.DpEvent)
    }
    del classes["DpEvent"]
    fields = {name: tuple(attribute.name for attribute in kind.__attrs_attrs__) for name, kind in classes.items()}
    assert fields == dict(FIELDS)


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (3, "is no event"),
        ({"class_name": "CauchyDpEvent"}, "'CauchyDpEvent' is no event of dp-accounting"),
        ({"class_name": "GaussianDpEvent", "module_name": "os", "noise_multiplier": 1}, "'os.GaussianDpEvent' is no"),
        ({"class_name": "GaussianDpEvent", "sigma": 1}, "wrong or missing: noise_multiplier, sigma"),
        ({"class_name": "GaussianDpEvent", "noise_multiplier": "much"}, "must be a finite number, not 'much'"),
        ({"class_name": "GaussianDpEvent", "noise_multiplier": True}, "must be a finite number, not 'True'"),
        ({"class_name": "ComposedDpEvent", "events": 3}, "events must be a list"),
        (
            {
                "class_name": "MixtureOfGaussiansDpEvent",
                "standard_deviation": 1,
                "sensitivities": 1,
                "sampling_probs": 1,
            },
            "must be a list",
        ),
        (E.SelfComposedDpEvent(NOISE, 1.5), "count must be a whole number"),
        (E.SelfComposedDpEvent(E.SelfComposedDpEvent(NOISE, 10**9), 10**9), "is repeated more than"),
        (E.SelfComposedDpEvent(E.ComposedDpEvent([NOISE, E.LaplaceDpEvent(2.0)]), 10**6), "repeat each part by itself"),
    ],
)
def test_what_is_no_event(event: Any, text: str) -> None:
    """Goal: bad input is refused with the field and what to write, and no module that it names is imported."""
    with pytest.raises(InvalidMechanism) as refused:
        from_dp_event(event, adjacency="zero_out")
    assert text in refused.value.detail


def test_trees_are_bounded() -> None:
    """Goal: a tree that is deep, or large by sharing its branches, ends with an error, soon."""
    deep, wide = NOISE, NOISE
    for _ in range(200):
        deep = E.SelfComposedDpEvent(deep, 1)
    for _ in range(40):
        wide = E.ComposedDpEvent([wide, wide])
    for event, text in ((deep, "nested more than"), (wide, f"more than {NODES_MAX:,} events")):
        with pytest.raises(InvalidMechanism, match=text):
            from_dp_event(event, adjacency="zero_out")


@pytest.mark.parametrize(
    ("mechanism", "adjacency", "text"),
    [
        ({"type": "approximate_dp", "epsilon": 1, "delta": 1e-9}, "zero_out", "an epsilon and a delta of its own"),
        ({"type": "gdp", "mu": 1, "delta": 1e-9, "evidence": "a proof"}, "zero_out", "no event has a delta"),
        (Laplace(noise_multiplier=2), "replace_one", "counts its sensitivity"),
        (RandomizedResponse(epsilon=1, categories=2), "zero_out", "takes the answer of a unit without data"),
        (DPSGD(noise_multiplier=1, sample_rate=0.1, steps=10, sampling="shuffle"), "zero_out", "shuffled epochs"),
        (DPSGD(noise_multiplier=1, sample_rate=0.1, steps=10, sampling="fixed_size"), "replace_one", "half of the"),
        (MatrixFactorization(noise_multiplier=1, strategy="sqrt", steps=9, participations=1), "zero_out", "no event"),
        ({"type": "wizardry"}, "zero_out", "no mechanism of the ledger"),
        ({"type": "gaussian"}, "zero_out", "is not a valid declaration"),
    ],
)
def test_a_mechanism_without_an_event_is_refused(mechanism: Any, adjacency: str, text: str) -> None:
    """Goal: what no accountant of dp-accounting costs as the ledger does has no event, alone or as a part."""
    with pytest.raises(InvalidMechanism, match=text):
        to_dp_event(mechanism, adjacency=adjacency)
    with pytest.raises(InvalidMechanism) as refused:
        to_dp_event(Composed(parts=[Gaussian(noise_multiplier=2), mechanism]), adjacency=adjacency)
    assert refused.value.field == "mechanism.parts[1]"


def test_the_relation_is_never_assumed() -> None:
    """Goal: the relation is an argument without a default, by the ledger's name or the library's."""
    with pytest.raises(TypeError):
        from_dp_event(NOISE)  # type: ignore[call-arg]
    with pytest.raises(InvalidRequest, match="no neighbouring relation"):
        to_dp_event(Gaussian(noise_multiplier=2), adjacency="replace")
    assert from_dp_event(NOISE, adjacency="REPLACE_ONE") == from_dp_event(NOISE, adjacency=RELATION.REPLACE_ONE)


def test_a_training_job_needs_no_library() -> None:
    """Goal: reading an event imports neither dp-accounting nor anything of the server. Method: a process of its own."""
    program = (
        "import sys\nfrom ledger.client.dp_events import from_dp_event\n"
        "from_dp_event({'class_name': 'GaussianDpEvent', 'noise_multiplier': 2}, adjacency='zero_out')\n"
        "print(sorted({'dp_accounting', 'numpy', 'scipy', 'pydantic', 'sqlalchemy', 'httpx'} & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.strip() == "[]"
