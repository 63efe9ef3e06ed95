"""What is recorded with the run of a training: versions, options, and which known faults were checked.

`privacy-ledger advisories` reads it: docs/how-to/advisories.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import opacus
import torch

from ledger.client.opacus.watch import Watch

RULED_OUT: Final = (
    "opacus-adaptive-clipping-noise",
    "opacus-distributed-empty-draws",
    "opacus-gdp-forgets",
    "opacus-gdp-underestimates",
    "opacus-private-divisor",
)
"""The advisories whose fault `attach` refuses, or whose number it sets, whatever loader the steps take batches from."""
RULED_OUT_BY_DRAWS: Final = (
    "opacus-accumulation-joins-draws",
    "opacus-float16-skipped-steps",
    "opacus-left-over-gradients",
    "opacus-loader-loses-a-step",
    "opacus-sampler-replaced",
    "opacus-shuffled-as-poisson",
    "opacus-weighted-sampler-rate",
)
"""Those that are checked by the draw of each step, and not if somebody put another loader around the sampler."""


def at_start(
    engine: Any,
    optimizer: Any,
    given: Mapping[str, Any],
    *,
    is_poisson: bool,
    is_size_public: bool,
    draws_per_step: int,
    records_of_unit: int | None,
) -> dict[str, Any]:
    """Return what is recorded when the run begins: nothing that depends on protected data, and about 2,000 bytes.

    given: the arguments of `make_private`. records_of_unit: how many records a privacy unit has at most, as stated.
    """
    sampler = type(given["data_loader"].sampler).__name__
    # Under the other adjacencies a divisor follows from the number of records, which is public there.
    divisor = optimizer.expected_batch_size if optimizer.loss_reduction == "mean" else "none"
    return {
        "libraries": {"opacus": opacus.__version__, "torch": torch.__version__},
        "options": {
            "poisson_sampling": is_poisson,
            "sampler": sampler,
            "rate_from": "sampler",
            "steps_from": "counted",
            "gradient_accumulation_steps": draws_per_step,
            "divisor": divisor,
            "accountant": engine.accountant.mechanism(),
            "optimizer": type(optimizer).__name__,
            "clipping": str(given.get("clipping", "flat")),
            "grad_sample_mode": str(given.get("grad_sample_mode", "hooks")),
            "secure_mode": bool(engine.secure_mode),
            "world_size": 1,
            "fixed_seed": False,
        },
        "checked": [
            "poisson sampling over the whole dataset" if is_poisson else "one pass over all records each epoch",
            "one step and one draw of noise for each draw of a batch"
            if draws_per_step == 1
            else f"at most {draws_per_step} draws joined in a step",
            "noise multiplier, clip norm and rows of each drawn record at each step",
            "one process, no loss scaler, parameters of 32 bits or more",
            "noise and draws seeded by the operating system",
        ],
        "assumed": [
            "the number of records is public"
            if is_size_public
            else "nominal_size was fixed without looking at the data",
            "each unit has at most " + ("one record" if records_of_unit in (None, 1) else f"{records_of_unit} records"),
            "the gradient of a record depends on no other record of its batch",
            "draws left at the end of a pass were not chosen by looking at them",
        ],
    }


def at_end(watch: Watch, differences: list[str], ruled_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what is recorded when the run ends. resumed: whether another process began it, which recorded nothing.

    ruled_out: the advisories about the trainer that are ruled out.
    """
    by_draws = () if watch.is_rebuilt else RULED_OUT_BY_DRAWS
    return {
        "resumed": watch.run.is_resumed,
        "steps": watch.noised,
        "differences": differences,
        "rules_out": sorted((*RULED_OUT, *by_draws, *ruled_out)),
    }


def since(accountant: Any, before: list[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Return what an accountant recorded since then: new entries, and the steps that were added to the last one."""
    history = list(accountant.history)
    if history[: len(before)] == before:
        return history[len(before) :]
    at = len(before) - 1
    if at >= 0 and history[:at] == before[:at] and len(history) > at and history[at][:2] == before[at][:2]:
        noise, rate, steps = history[at]
        return [(noise, rate, steps - before[at][2]), *history[at + 1 :]]
    return history
