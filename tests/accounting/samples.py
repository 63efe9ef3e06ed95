"""What the tests of declared costs and limits draw from: random decimals, their exact values in mpmath, and
declarations of mechanisms, random ones and those of the reference."""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import mpmath as mp

from ledger.accounting import mechanisms
from tests.accounting import oracle

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable


def decimal(rng: random.Random, low: str, high: str) -> Decimal:
    """A decimal in [low, high], uniform in its logarithm, of anything from 1 to 60 digits."""
    least, most = Decimal(low), Decimal(high)
    exponent = rng.uniform(float(least.log10()), float(most.log10()))
    digits = rng.choice([1, 2, 3, 6, 17, 60])
    # 10^exponent in a double has 15 good digits; those that follow are drawn.
    leading = Decimal(10) ** Decimal(exponent)
    mantissa = f"{leading:.15e}".split("e")[0] + "".join(rng.choices("0123456789", k=45))
    drawn = Context(prec=digits).create_decimal(f"{mantissa[: 2 + digits]}e{leading.adjusted()}")
    return min(max(drawn, least), most)


def one_step(batch_size: int, dataset_size: int) -> Decimal:
    """The least number of epochs that are a step: batch_size/dataset_size, rounded up in the thirtieth place."""
    return Decimal(f"{-(-batch_size * 10**30 // dataset_size)}e-30")


def real(value: Decimal | Fraction | int) -> Any:
    """The value in mpmath, as exactly as its precision allows."""
    exact = Fraction(value)
    return mp.mpf(exact.numerator) / exact.denominator


def normal_cdf(x: Any) -> Any:
    """Phi, by its definition through erfc."""
    return mp.erfc(-x / mp.sqrt(2)) / 2


# --- declarations ----------------------------------------------------------------------------------------------------

POISSON = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "poisson", "sample_rate": Decimal("0.1"), "steps": 10}
EPOCHS = {
    "type": "dpsgd",
    "noise_multiplier": 1,
    "sampling": "shuffle",
    "dataset_size": 100,
    "batch_size": 10,
    "epochs": 3,
}


def gaussian(noise_multiplier: Any, count: int = 1) -> dict[str, Any]:
    """A Gaussian mechanism, declared."""
    return {"type": "gaussian", "noise_multiplier": noise_multiplier, "count": count}


def composed(parts: Iterable[Any]) -> dict[str, Any]:
    """A composition, declared."""
    return {"type": "composed", "parts": list(parts)}


def random_count(rng: random.Random) -> int:
    """A count from 1 to 10^12, small ones as often as large ones."""
    return rng.randint(1, 10 ** rng.randint(0, 12))


def random_training(rng: random.Random, sampling: str) -> dict[str, Any]:
    """DP-SGD in either form, with noise from where mu passes all doubles to 1e12."""
    low, high = rng.choice([("0.3", "30"), ("0.3", "30"), ("0.02", "1"), ("1e-12", "1e12")])
    declared = {"type": "dpsgd", "sampling": sampling, "noise_multiplier": decimal(rng, low, high)}
    if rng.random() < 0.5:
        return {**declared, "sample_rate": decimal(rng, "1e-12", "1"), "steps": random_count(rng)}
    size = random_count(rng)
    batch = rng.randint(1, size)
    epochs = max(decimal(rng, "1e-3", rng.choice(["1e3", "1e12"])), one_step(batch, size))
    return {**declared, "dataset_size": size, "batch_size": batch, "epochs": epochs}


def rate_and_steps(declared: dict[str, Any]) -> tuple[Fraction, Fraction]:
    """q and T, exactly."""
    if "steps" in declared:
        return Fraction(declared["sample_rate"]), Fraction(declared["steps"])
    rate = Fraction(declared["batch_size"], declared["dataset_size"])
    return rate, Fraction(declared["epochs"]) / rate


_SAMPLING = {"clt_poisson": "poisson", "clt_uniform": "fixed_size"}


def declaration(name: str) -> dict[str, Any]:
    """A case of the reference as a user would declare it."""
    case = oracle.REFERENCE[name]
    given = case["params"]
    match case["kind"]:
        case "clt_poisson" | "clt_uniform" as kind:
            declared = {
                "type": "dpsgd",
                "sampling": _SAMPLING[kind],
                "noise_multiplier": Decimal(given["noise_multiplier"]),
            }
            if "epochs" in given:
                sizes = {"dataset_size": given["N"], "batch_size": given["batch_size"], "epochs": given["epochs"]}
                return {**declared, **sizes}
            return {**declared, "sample_rate": Decimal(given["sample_rate"]), "steps": given["steps"]}
        case "gaussian":
            return gaussian(Decimal(given["sigma"]) / Decimal(given["sensitivity"]))
        case "laplace":
            noise = Decimal(given["scale"]) / Decimal(given["sensitivity"])
            return {"type": "laplace", "noise_multiplier": noise}
        case "pure_dp":
            return {"type": "pure_dp", "epsilon": Decimal(given["epsilon"])}
        case "eps_delta_blackbox":
            return {
                "type": "approximate_dp",
                "epsilon": Decimal(given["epsilon"]),
                "delta": Decimal(given["delta"]),
            }
        case "composition":
            return composed(declaration(part["id"]) for part in given["members"] for _ in range(part["count"]))
        case kind:
            raise AssertionError(kind)


def appearances(rng: random.Random, *, size: int, batch: int, steps: int, drop_last: bool) -> int:
    """Trains `steps` steps as a data loader does, from an epoch's start; the most batches that one unit was in."""
    seen = [0] * size
    taken = 0
    while taken < steps:
        order = rng.sample(range(size), size)
        # The adversary's order: unit 0 always comes first.
        order.remove(0)
        order.insert(0, 0)
        ends = size - size % batch if drop_last else size
        for start in range(0, ends, batch):
            if taken == steps:
                break
            for unit in order[start : min(start + batch, ends)]:
                seen[unit] += 1
            taken += 1
    return max(seen)


STATED = {"type": "matrix_factorization", "noise_multiplier": 1, "sensitivity": 1, "evidence": "x"}
STRATEGY = {"type": "matrix_factorization", "noise_multiplier": 1, "steps": 10}
PHASES = [
    {"noise_multiplier": 2, "sample_rate": Decimal("0.05"), "steps": 5},
    {"noise_multiplier": 1, "sample_rate": Decimal("0.1"), "steps": 10},
]
EXAMPLES: dict[str, dict[str, Any]] = {
    "dpsgd": POISSON,
    "dpsgd, fixed size": POISSON | {"sampling": "fixed_size"},
    "dpsgd, capped": POISSON | {"dataset_size": 1000, "truncated_batch_size": 120},
    "dpsgd, records": POISSON | {"max_examples_per_user": 2},
    "dpsgd, fixed size, least size": POISSON | {"sampling": "fixed_size", "dataset_size_min": 1000},
    "dpsgd, all of it": POISSON | {"sample_rate": 1},
    "dpsgd, by epochs": EPOCHS | {"sampling": "poisson"},
    "dpsgd, shuffled": EPOCHS,
    "dpsgd_schedule": {"type": "dpsgd_schedule", "sampling": "poisson", "noise_scale": 2, "phases": PHASES},
    "dpsgd_schedule, fixed size": {"type": "dpsgd_schedule", "sampling": "fixed_size", "phases": PHASES},
    "gaussian": gaussian(1),
    "laplace": {"type": "laplace", "noise_multiplier": 1, "count": 2},
    "pure_dp": {"type": "pure_dp", "epsilon": 1},
    "approximate_dp": {"type": "approximate_dp", "epsilon": 1, "delta": Decimal("0.00001")},
    "randomized_response": {"type": "randomized_response", "epsilon": 1, "categories": 10},
    "zcdp": {"type": "zcdp", "rho": 1},
    "gdp": {"type": "gdp", "mu": 1, "delta": Decimal("0.00001"), "evidence": "x"},
    "matrix_factorization": STATED,
    "matrix_factorization, tree": STRATEGY
    | {"strategy": "tree", "participations": 2, "separation": 3, "completion": "none"},
    "matrix_factorization, sqrt": STRATEGY | {"strategy": "sqrt", "bandwidth": 4, "participations": 1},
    "matrix_factorization, banded_inverse_sqrt": STRATEGY
    | {"strategy": "banded_inverse_sqrt", "bandwidth": 4, "participations": 2, "separation": 3},
    "matrix_factorization, blt": STRATEGY
    | {"strategy": "blt", "scales": [Decimal("0.3"), Decimal("0.1")], "decays": [Decimal("0.5"), Decimal("0.9")]}
    | {"participations": 2, "separation": 3},
    "matrix_factorization, toeplitz": STRATEGY
    | {"strategy": "toeplitz", "coefficients": [1, Decimal("-0.5")], "participations": 2, "separation": 2},
    "matrix_factorization, cyclic_poisson": STRATEGY
    | {"strategy": "sqrt", "bandwidth": 4, "sampling": "cyclic_poisson", "sample_rate": Decimal("0.1")},
    "composed": composed([gaussian(1), POISSON, POISSON | {"steps": 20}]),
}
"""Every form of every mechanism: whoever adds one adds it here."""


def random_mechanism(rng: random.Random) -> dict[str, Any]:
    """A declaration of any type by its fields alone, of which many do not go together: most are refused. Half of them
    have the fields and texts of an example."""
    type_ = rng.choice(list(mechanisms.BY_TYPE))
    schema = mechanisms.BY_TYPE[type_].model_json_schema()
    if rng.random() < 0.5:
        example = rng.choice([example for example in EXAMPLES.values() if example["type"] == type_])
        return {
            name: value if isinstance(value, str) else _random_value(rng, schema["properties"][name])
            for name, value in example.items()
        }
    declared: dict[str, Any] = {"type": type_}
    for name, field in schema["properties"].items():
        if name != "type" and (name in schema["required"] or rng.random() < 0.5):
            declared[name] = _random_value(rng, field)
    return declared


def _random_value(rng: random.Random, field: dict[str, Any]) -> Any:
    if "anyOf" in field:
        return _random_value(rng, field["anyOf"][0])
    if "enum" in field or "const" in field:
        return rng.choice(field.get("enum") or [field["const"]])
    match field["type"]:
        case "integer":
            return rng.randint(1, 10 ** rng.randint(1, 6))
        case "number":
            return decimal(rng, "0.001", "0.9")
        case "string":
            return "Theorem 3"
        case _ if field["items"].get("type") == "number":
            return [_random_value(rng, field["items"]) for _ in range(rng.randint(1, 3))]
        case _ if "$ref" in field["items"]:
            phase = {"noise_multiplier": decimal(rng, "0.5", "9"), "sample_rate": decimal(rng, "0.001", "0.9")}
            return [phase | {"steps": random_count(rng)} for _ in range(rng.randint(1, 4))]
        case _:
            return [gaussian(1), POISSON]
