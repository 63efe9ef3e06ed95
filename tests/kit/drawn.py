"""Everything about a budget that can be drawn at random: mechanisms, budgets, shares and partitions."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.kit.budget_costs import Json
from tests.kit.budget_model import gaussian

PRINCIPALS = {"boss": "admin", "steward": "steward", "ada": "requester", "bo": "requester"}
EVIDENCE = "Theorem 3"
SHUFFLED: Json = {"type": "dpsgd", "noise_multiplier": 5, "sampling": "shuffle"}
BY_EPOCHS: Json = {**SHUFFLED, "dataset_size": 100, "batch_size": 30, "epochs": 2}
IDENTITY: Json = {"type": "matrix_factorization", "noise_multiplier": 5, "strategy": "identity"}
IDENTITY |= {"participations": 1, "separation": 1}
BUDGETS = [{"mu": mu, "delta": delta} for mu in (1, 2, 0.5, 0.8, 0.3) for delta in (2e-6, 5e-6, 1e-6, 0)]
SHARES = [*({"mu": mu, "delta": delta} for mu in (0.3, 0.5, 0.2) for delta in (1e-6, 0)), *BUDGETS[:6]]
PARTITIONS: list[list[str] | None] = [None, None, [], ["a"], ["a", "b"]]
NOISES = st.sampled_from([5, 8, 10, 4, 3, 10, 2.5])
FEW = st.integers(1, 4)
MECHANISMS = st.one_of(
    st.builds(gaussian, NOISES, FEW),
    st.builds(
        lambda mu, delta: {"type": "gdp", "mu": mu, "delta": delta, "evidence": EVIDENCE},
        st.sampled_from([0.2, 0.25, 0.1, 0.3]),
        st.sampled_from([0, 5e-7, 1e-6, 3e-7]),
    ),
    st.builds(
        lambda noise, rate, steps: {**SHUFFLED, "noise_multiplier": noise, "sample_rate": rate, "steps": steps},
        NOISES,
        st.sampled_from([0.5, 0.25, 0.2]),
        st.integers(1, 10),
    ),
    st.builds(
        lambda noise, size, epochs: {**BY_EPOCHS, "noise_multiplier": noise, "batch_size": size, "epochs": epochs},
        NOISES,
        st.sampled_from([20, 30]),
        st.sampled_from([1, 1.5, 2]),
    ),
    st.builds(
        lambda noise, steps: {
            **SHUFFLED,
            "noise_multiplier": noise,
            "sampling": "poisson",
            "sample_rate": 1,
            "steps": steps,
        },
        NOISES,
        FEW,
    ),
    st.builds(
        lambda noise, steps, times, apart: {
            **IDENTITY,
            "noise_multiplier": noise,
            "steps": steps,
            "participations": times,
            "separation": apart,
        },
        st.sampled_from([5, 4, 2.5]),
        st.integers(1, 10),
        st.integers(1, 3),
        st.integers(1, 4),
    ),
    st.builds(
        lambda epsilon, delta, count: {"type": "approximate_dp", "epsilon": epsilon, "delta": delta, "count": count},
        st.sampled_from([0.1, 0.2, 0.25]),
        st.sampled_from([1e-7, 4e-7]),
        st.integers(1, 3),
    ),
    st.builds(
        lambda one, other: {"type": "composed", "parts": [one, other]},
        st.builds(gaussian, NOISES, FEW),
        st.builds(
            lambda delta: {"type": "gdp", "mu": 0.1, "delta": delta, "evidence": EVIDENCE}, st.sampled_from([0, 3e-7])
        ),
    ),
)
OFTEN = st.sampled_from([True] * 7 + [False])
SELDOM = st.sampled_from([False] * 7 + [True])
