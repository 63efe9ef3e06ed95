"""What comes nearest to a recipe that cannot be declared, and in which direction it errs.

A table of names that training libraries and papers use, and mechanisms do not have here: of a `type`, of the values of
`sampling` and `strategy`, and of fields. Each text names what to declare in its place, and whether that costs the same,
charges too much (sound) or too little (not sound). Our derivations, if no source is named:

- *A unit in one step of each epoch*, whichever: a mixture of fixed orders, so that no amplification is the most.
- *Adaptive clipping* (Andrew et al. 2021): a unit moves the sum by one clip norm C under noise z C, and the count of
  gradients below C by 1/2 under noise b, if it counts 1/2 or -1/2. Both are one Gaussian release with the noise
  multiplier s, s^-2 = z^-2 + (2 b)^-2; if it counts 0 or 1, s^-2 = z^-2 + b^-2.
- *Correlated noise with sampled batches*: the steps of a unit do not depend on data and may be revealed. No entry of a
  strategy is negative, so that all steps are the worst pattern. In batches of a fixed size under add_or_remove_one a
  unit takes another's place, and moves each sum by up to 2 C.
- *Geometric noise on an integer* that one unit changes by 1 at most has the losses epsilon and -epsilon alone, like
  randomized response on one bit, which costs as `pure_dp`. That of `laplace` is less.
- *The exponential mechanism* of range epsilon is epsilon^2/8-zCDP (Cesar & Rogers 2021). An epsilon-DP mechanism that
  has no such range is not.
- *Discrete Gaussian noise* is (sensitivity/sigma)^2/2-zCDP (Canonne, Kamath & Steinke 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_LENGTH_MAX: Final = 64
_SOUND: Final = "which charges too much, never too little"

_EXPONENTIAL: Final = (
    f"declare zcdp with rho = epsilon²/8, or pure_dp with the epsilon of the exponential mechanism, {_SOUND}; a noisy"
    " maximum is one with Gumbel noise alone"
)
_NOISY_MAX: Final = (
    f"declare pure_dp with the epsilon of the noisy maximum, {_SOUND}; zcdp with rho = epsilon²/8 is for Gumbel noise,"
    " and charges too little for other noise"
)
_SPARSE: Final = f"declare pure_dp with the epsilon of all of it, and count 1, {_SOUND}"
_GEOMETRIC: Final = (
    "declare pure_dp with epsilon = sensitivity/scale, which costs the same if a unit changes an integer by 1 at most,"
    " and too much otherwise; laplace charges too little"
)
_DISCRETE_GAUSSIAN: Final = (
    f"declare zcdp with rho = (sensitivity/sigma)²/2, {_SOUND}; that gaussian charges enough for it is not proved"
)
_RENYI: Final = (
    "a Rényi curve cannot be declared: if it is at most rho·alpha at every order alpha above 1, declare zcdp with that"
    f" rho, else an (epsilon, delta) that it implies, as approximate_dp, {_SOUND}; a rho that holds at some orders"
    " alone charges too little"
)
_TREE: Final = (
    "declare matrix_factorization with strategy tree, and with the completion, participations and separation of the"
    " training; more participations, less separation or completion power_of_two charge too much, the reverse too little"
)
_TRAINING: Final = "declare dpsgd: what an optimizer makes of noisy gradients costs nothing, so that it costs the same"
_FULL_BATCH: Final = "for full batches declare sampling poisson with sample_rate 1, which costs the same"
_SELECTION: Final = (
    "declare each trial as a run of its own, or all of them as parts of composed, which charges too much if only the"
    " best is released; the trial that won, alone, charges too little"
)
_SHUFFLE_MODEL: Final = (
    f"declare the local mechanism, as randomized_response or pure_dp with its local epsilon, {_SOUND}: no amplification"
    " by shuffling is claimed; what was proved elsewhere of the shuffled answers can be stated as gdp, with evidence"
)
TYPES: Final[Mapping[str, str]] = {
    "exponential": _EXPONENTIAL,
    "exponential_mechanism": _EXPONENTIAL,
    "noisy_max": _NOISY_MAX,
    "report_noisy_max": _NOISY_MAX,
    "permute_and_flip": _NOISY_MAX,
    "sparse_vector": _SPARSE,
    "above_threshold": _SPARSE,
    "geometric": _GEOMETRIC,
    "discrete_laplace": _GEOMETRIC,
    "discrete_gaussian": _DISCRETE_GAUSSIAN,
    "analytic_gaussian": (
        "declare gaussian: its noise_multiplier is the standard deviation over the L2 sensitivity, which costs the same"
        " however that deviation was chosen"
    ),
    "rdp": _RENYI,
    "renyi": _RENYI,
    "tree": _TREE,
    "tree_aggregation": _TREE,
    "dp_ftrl": _TREE,
    "ftrl": _TREE,
    "bandmf": (
        "declare matrix_factorization with the strategy that the training uses and sampling cyclic_poisson, which costs"
        " the same; without the sampling it charges too much, never too little"
    ),
    "dp_sgd": _TRAINING,
    "dp_adam": _TRAINING,
    "sgd": _TRAINING,
    "adam": _TRAINING,
    "subsampled_gaussian": (
        "declare dpsgd with the sampling that is used; it costs the same for any sum that is clipped for each unit"
    ),
    "private_selection": _SELECTION,
    "hyperparameter_search": _SELECTION,
    "shuffle_model": _SHUFFLE_MODEL,
    "local_dp": _SHUFFLE_MODEL,
    "composed": (
        "is only possible at the top: list its parts here in its place, which costs the same, since costs add up"
    ),
}
"""By the `type` of a mechanism, or of a part."""

_ONCE_AN_EPOCH: Final = (
    "if each unit is in exactly one batch of each epoch, declare shuffle, which charges too much, never too little: no"
    " amplification is claimed; poisson charges too little"
)
_WITH_REPLACEMENT: Final = (
    "no cost is known of draws with replacement, in which a unit can be in a batch several times: fixed_size charges"
    " too little; draw without replacement, and declare fixed_size"
)
_TRUNCATED: Final = (
    "declare sampling poisson with truncated_batch_size, the cap, and dataset_size; poisson alone charges too little"
)
_WITHOUT_REPLACEMENT: Final = (
    "if every step draws a new batch, without replacement, declare fixed_size, which costs the same; if an epoch"
    " passes over all units, declare shuffle: fixed_size charges too little"
)
SAMPLINGS: Final[Mapping[str, str]] = {
    "balls_in_bins": _ONCE_AN_EPOCH,
    "balls_and_bins": _ONCE_AN_EPOCH,
    "random_allocation": _ONCE_AN_EPOCH,
    "fixed_order": _ONCE_AN_EPOCH,
    "sequential": _ONCE_AN_EPOCH,
    "with_replacement": _WITH_REPLACEMENT,
    "without_replacement": _WITHOUT_REPLACEMENT,
    "uniform": _WITHOUT_REPLACEMENT,
    "bernoulli": "declare poisson, which is another name of the same and costs the same",
    "truncated_poisson": _TRUNCATED,
    "none": _FULL_BATCH,
    "full_batch": _FULL_BATCH,
    "cyclic_poisson": (
        "declare matrix_factorization with strategy identity and this sampling, if the steps take turns among public"
        " groups; poisson with the rate within a group and all steps charges too much, with the rate among all units"
        " too little"
    ),
}
"""By the value of `sampling` of `dpsgd`."""

CORRELATED: Final[Mapping[str, str]] = {
    "poisson": (
        "correlated noise is amplified with banded strategies and cyclic_poisson alone; leave out sampling and"
        " sample_rate, and let participations be all steps and separation 1, which charges too much, never too little;"
        " for independent noise declare dpsgd"
    ),
    "shuffle": (
        "leave out sampling, and declare participations, the number of epochs, and separation, 1 if the order changes"
        f" between epochs, {_SOUND}: no amplification by shuffling is claimed"
    ),
    "fixed_size": (
        "leave out sampling and sample_rate, let participations be all steps and separation 1, and under"
        f" add_or_remove_one halve noise_multiplier, since a unit takes another's place, {_SOUND}"
    ),
    "b_min_sep": (
        "leave out sampling, and declare participations, the most that a unit can have, and separation b,"
        f" {_SOUND}: no amplification is claimed"
    ),
}
"""By the value of `sampling` of `matrix_factorization`."""

_OWN_MATRIX: Final = (
    "state the sensitivity of the matrix, for the steps that a unit takes part in, with evidence, which costs the same;"
    " the strategy identity is that of independent noise, and usually charges too little"
)
STRATEGIES: Final[Mapping[str, str]] = {
    "optimal": _OWN_MATRIX,
    "dense": _OWN_MATRIX,
    "custom": _OWN_MATRIX,
    "banded": _OWN_MATRIX,
    "binary_tree": "declare tree, with the completion that is used, which costs the same",
    "honaker": "declare tree: Honaker's estimate combines nodes that are released anyway, so that it costs the same",
    "dpsgd": "declare identity, which has noise of its own at each step and costs the same; or the type dpsgd",
}
"""By the value of `strategy`."""

_CLIP: Final = (
    "leave it out: noise_multiplier is the noise's standard deviation over the clip norm already; a deviation that is"
    " not divided by a clip norm above 1 charges too little"
)
_SIGMA: Final = (
    "declare noise_multiplier, the noise over the clip norm of a training, or over the sensitivity; a deviation that is"
    " not divided by one above 1 charges too little"
)
_RATE: Final = (
    "declare sample_rate, of the batch that gets noise once; that of a smaller, physical batch charges too little"
)
_STEPS: Final = "declare steps: how often noise is added, once for each logical batch; fewer charge too little"
_FREE: Final = "leave it out: what an optimizer makes of noisy gradients costs nothing, so that the cost is the same"
_CAP: Final = (
    "if units beyond a cap are dropped from a batch, declare truncated_batch_size and dataset_size: poisson without"
    " them charges too little; if a batch is only split for memory, leave it out, and the cost is the same"
)
_ADAPTIVE: Final = (
    "declare the noise multiplier of gradients and count together, s with s^-2 = z^-2 + (2b)^-2, if a unit counts 1/2"
    " or -1/2, and z^-2 + b^-2 if it counts 0 or 1, which costs the same; z alone, of the gradients, charges too little"
)
_MICROBATCHES: Final = (
    "if each microbatch is one unit, leave it out, and the cost is the same; else clip the gradient of each unit by"
    " itself: of units that are clipped together no cost is known, and noise over their clip norm charges too little"
)
_SCHEDULE: Final = (
    "declare the type dpsgd_schedule with its phases, which costs the same; the least noise and the largest rate for"
    " all steps charges too much, an average too little"
)
_USERS: Final = (
    "if a user's records are sampled one by one, declare max_examples_per_user, the most that any has: poisson without"
    " it charges too little; if a user's records are sampled and clipped together, leave it out, and the cost is the"
    " same"
)
FIELDS: Final[Mapping[str, str]] = {
    "clip_norm": _CLIP,
    "l2_clip_norm": _CLIP,
    "l2_norm_clip": _CLIP,
    "max_grad_norm": _CLIP,
    "sigma": _SIGMA,
    "stddev": _SIGMA,
    "noise_stddev": _SIGMA,
    "sampling_rate": _RATE,
    "sampling_prob": _RATE,
    "sampling_probability": _RATE,
    "iterations": _STEPS,
    "num_steps": _STEPS,
    "learning_rate": _FREE,
    "momentum": _FREE,
    "optimizer": _FREE,
    "max_batch_size": _CAP,
    "max_physical_batch_size": _CAP,
    "adaptive_clipping": _ADAPTIVE,
    "target_unclipped_quantile": _ADAPTIVE,
    "clipped_count_stddev": _ADAPTIVE,
    "microbatches": _MICROBATCHES,
    "num_microbatches": _MICROBATCHES,
    "accumulation_steps": (
        "leave it out, and declare sample_rate and steps of the logical batch, which gets noise once, and the cost is"
        " the same; those of its parts charge too little"
    ),
    "noise_schedule": _SCHEDULE,
    "noise_multipliers": _SCHEDULE,
    "sample_rates": _SCHEDULE,
    "examples_per_user": _USERS,
    "records_per_user": _USERS,
}
"""By a field that no training has here."""

_VALUES: Final[Mapping[tuple[str, str], Mapping[str, str]]] = {
    ("dpsgd", "sampling"): SAMPLINGS,
    ("matrix_factorization", "sampling"): CORRELATED,
    ("matrix_factorization", "strategy"): STRATEGIES,
}


_MANY_PARTS: Final = (
    "declare DP-SGD whose noise or sample rate changes as dpsgd_schedule, which takes 10,000 phases and charges the "
    "same or a little more"
)


def nearest(error: Mapping[str, Any]) -> str | None:
    """Return what to declare in place of what one of Pydantic's errors about a mechanism rejects; None if unknown.

    error: with `type`, `loc`, `ctx` if it has one, and `input` if that is a text.
    """
    if error["type"] == "union_tag_invalid":
        return TYPES.get(_name(error["ctx"]["tag"]))
    if error["type"] == "too_long" and error["loc"][-1] == "parts":
        return _MANY_PARTS
    if error["type"] not in ("extra_forbidden", "literal_error"):
        return None
    kind, field = ("", *error["loc"])[-2:]
    values = _VALUES.get((str(kind), str(field)), {})
    of_field = FIELDS.get(_name(field)) if error["type"] == "extra_forbidden" else None
    return values.get(_name(error.get("input")), of_field)


def with_nearest(text: str, error: Mapping[str, Any]) -> str:
    """Return a message about one of Pydantic's errors, with what to declare in its place, if that is known."""
    instead = nearest(error)
    return text if instead is None else f"{text}{'' if text.endswith('?') else '.'} What comes nearest: {instead}."


def _name(value: object) -> str:
    """Return a name in the form of the tables; empty if it is none."""
    if not isinstance(value, str) or len(value) > _LENGTH_MAX:
        return ""
    return value.strip().lower().replace("-", "_").replace(" ", "_")
