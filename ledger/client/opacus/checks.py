"""What is read from the objects that draw batches and add noise, and what is refused before the start."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from decimal import ROUND_CEILING, Context, Decimal
from numbers import Real
from typing import Any, Final

import opacus
import torch
from opacus.data_loader import DPDataLoader
from opacus.distributed import DifferentiallyPrivateDistributedDataParallel
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping, DPPerLayerOptimizer
from opacus.utils.uniform_sampler import UniformWithReplacementSampler
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
)

from ledger.client.attached import NotCovered

VERSION: Final = "1.6"
"""The minor version of Opacus whose source these checks were written for."""
DIGITS: Final = 10
"""The significant digits of a sample rate that is asked for, rounded up."""
BITS: Final = {torch.float32: 24, torch.float64: 53}
"""How many bits `torch.rand` draws, by the default type of floats."""


def demand_engine(engine: Any) -> None:
    """Refuse other versions of Opacus, accountants that give no bound, and several processes. Raises NotCovered."""
    if not opacus.__version__.startswith(f"{VERSION}."):
        raise NotCovered(
            f"Opacus {opacus.__version__} is installed. Version {VERSION} is known here; others draw, count or scale"
            f" noise in other ways. Install it: pip install 'opacus=={VERSION}.*'"
        )
    if engine.accountant.mechanism() == "gdp":
        raise NotCovered(
            'accountant="gdp": its epsilon is no bound, and a change of noise that it refuses empties its history.'
            ' Use PrivacyEngine(accountant="prv"), "rdp" or "ledger".'
        )
    if _processes() > 1:
        raise NotCovered(_DISTRIBUTED)


_DISTRIBUTED: Final = (
    "Training in several processes: the distributed sampler of Opacus leaves out empty draws, without noise and"
    " without a count, and what is left out depends on the data. Train in one process, without"
    " DistributedDataParallel; use BatchMemoryManager for large batches."
)


def _processes() -> int:
    """Return how many processes train together, from torch.distributed or the environment of a launcher."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return int(torch.distributed.get_world_size())
    said = os.environ.get("WORLD_SIZE", "1")
    return int(said) if said.isdecimal() else 1


def demand_arguments(given: Mapping[str, Any]) -> None:
    """Refuse arguments of `make_private` that nothing here covers. Raises NotCovered."""
    if isinstance(
        given["module"], DifferentiallyPrivateDistributedDataParallel | torch.nn.parallel.DistributedDataParallel
    ):
        raise NotCovered(_DISTRIBUTED)
    noise = given["noise_multiplier"]
    if not (isinstance(noise, Real) and 0 < float(noise) < math.inf):
        raise NotCovered(
            f"noise_multiplier: {noise!r} adds no noise that can be accounted for. Give a number above 0, or train"
            " without the ledger on data that needs no protection."
        )
    if given.get("noise_generator") is not None:
        raise NotCovered(
            "noise_generator: anyone who knows its seed can take the noise off, and after a restart it repeats the"
            " noise of earlier steps. An unseeded torch.Generator() has the same seed everywhere. Leave it out:"
            " attach() seeds the noise from the operating system."
        )
    if given.get("rand_on_empty"):
        raise NotCovered(
            "rand_on_empty=True puts a random record in the place of an empty draw, so that one record can move a sum"
            " by twice the clip norm. Leave it out: Opacus takes empty draws as they are."
        )
    if given.get("clipping", "flat") == "adaptive":
        raise NotCovered(
            'clipping="adaptive" divides the noisy count of unclipped gradients by the true size of the batch, which no'
            ' noise protects, and counts only the last part of a split batch. Use clipping="flat".'
        )


def demand_loader(loader: Any, *, is_poisson: bool) -> None:
    """Refuse a loader whose draws `make_private` would change or account for in a wrong way. Raises NotCovered."""
    if isinstance(loader.dataset, IterableDataset):
        raise NotCovered(
            "An IterableDataset yields a stream: nothing draws from it, and the same record can come again at any step."
            " Use a dataset with an index (map-style), so that batches can be drawn by Poisson sampling."
        )
    if type(loader.batch_sampler) is not BatchSampler or loader.batch_size is None:
        raise NotCovered(
            f"The loader has a batch sampler of its own, {type(loader.batch_sampler).__name__}. Use"
            " DataLoader(dataset, batch_size=…)."
        )
    _demand_sampler(loader.sampler, loader.dataset)
    _demand_single(loader.dataset)
    if not is_poisson and type(loader) is not DataLoader:
        raise NotCovered(f"The loader is a {type(loader).__name__}. Use a plain DataLoader(dataset, shuffle=True).")


def _demand_sampler(sampler: Any, dataset: Any) -> None:
    name = type(sampler).__name__
    if type(sampler) is SequentialSampler:
        return
    if type(sampler) is RandomSampler:
        if not sampler.replacement and sampler.num_samples == len(dataset):
            return
        raise NotCovered(
            "RandomSampler(replacement=True, num_samples=…) changes how many batches an epoch has, and so the sample"
            " rate and the divisor of make_private, and its own draws are not used. Use DataLoader(dataset,"
            " shuffle=True)."
        )
    raise NotCovered(
        f"The loader has a {name}. make_private does not use it: it draws from the whole dataset behind the loader, or"
        " accounts for its draws as if they were Poisson samples. For a part of the data, use"
        " torch.utils.data.Subset(dataset, indices). Weights have no known cost here."
    )


def _demand_single(dataset: Any) -> None:
    """Refuse a dataset that has a record twice, as far as its class shows."""
    if isinstance(dataset, Subset):
        if len(set(dataset.indices)) < len(dataset.indices):
            raise NotCovered(
                "The Subset has an index more than once, so that one record is drawn, clipped and added several times."
                " Remove the copies, or register a privacy unit of its own and give max_examples_per_user."
            )
        _demand_single(dataset.dataset)
    elif isinstance(dataset, ConcatDataset):
        if len({id(part) for part in dataset.datasets}) < len(dataset.datasets):
            raise NotCovered(
                "The ConcatDataset has a dataset more than once, so that one record is drawn, clipped and added several"
                " times. Remove the copies, or give max_examples_per_user."
            )
        for part in dataset.datasets:
            _demand_single(part)


def demand_made(module: Any, optimizer: Any, loader: Any, *, is_poisson: bool) -> None:
    """Refuse what `make_private` returned, if it is not of the kinds known here. Raises NotCovered."""
    if type(optimizer) not in (DPOptimizer, DPPerLayerOptimizer, DPOptimizerFastGradientClipping):
        raise NotCovered(
            f"The optimizer is a {type(optimizer).__name__}. Known are DPOptimizer, DPPerLayerOptimizer and"
            " DPOptimizerFastGradientClipping."
        )
    if hasattr(optimizer, "_adjusted_noise_multiplier"):
        raise NotCovered('Adaptive clipping changes the noise of the optimizer. Use clipping="flat".')
    kinds = {parameter.dtype for parameter in optimizer.params}
    if not kinds:
        raise NotCovered("The optimizer has no parameters to train, so no step would have noise.")
    if not kinds <= BITS.keys():
        raise NotCovered(
            f"Parameters of {', '.join(sorted(map(str, kinds)))}: sums and noise of 16 bits are rounded, which moves"
            " them by more than the clip norm covers. Keep the parameters in float32, and use autocast with bfloat16."
        )
    if len({parameter.device for parameter in optimizer.params}) > 1:
        raise NotCovered("The parameters are on several devices, and one generator makes the noise of one. Use one.")
    if is_poisson and not (
        type(loader) is DPDataLoader and type(loader.batch_sampler) is UniformWithReplacementSampler
    ):
        raise NotCovered(f"make_private returned a loader that draws by {type(loader.batch_sampler).__name__}.")
    demand_clipping(module, optimizer)


def demand_clipping(module: Any, optimizer: Any) -> None:
    """Refuse noise for a smaller clip norm than that with which gradients are clipped. Raises NotCovered.

    Per-layer and ghost clipping keep norms of their own, which a scheduler of the optimizer's norm does not change.
    """
    norm = float(optimizer.max_grad_norm)
    used = norm
    if isinstance(optimizer, DPPerLayerOptimizer):
        used = math.hypot(*map(float, optimizer.max_grad_norms)) * (1 - 1e-6)
    elif isinstance(optimizer, DPOptimizerFastGradientClipping):
        used = float(module.max_grad_norm)
    if not 0 < used <= norm < math.inf:
        raise NotCovered(
            f"Gradients are clipped to {used:g}, and the noise is for a clip norm of {norm:g}: a scheduler of the clip"
            ' norm changes only the noise, unless clipping="flat" and grad_sample_mode="hooks". Leave it out.'
        )


def drawn_rate(rate: float) -> Decimal:
    """Return the probability with which Poisson sampling at this rate really draws a record, rounded up.

    Opacus draws a record if `torch.rand` is below the rate: a multiple of 2^-24 for float32, below the rate as float32.
    """
    kind = torch.get_default_dtype()
    if kind not in BITS:
        raise NotCovered(f"torch.rand has {kind} by default, too coarse to sample with. Set torch.float32.")
    unit = 2 ** BITS[kind]
    # A comparison of a tensor with a number takes the number in the tensor's own type.
    compared = torch.tensor(rate, dtype=kind).item()
    count = min(math.ceil(compared * unit), unit)
    return Context(prec=DIGITS, rounding=ROUND_CEILING).divide(Decimal(count), Decimal(unit)).normalize()


def batches_of(size: int, loader: Any) -> int:
    """Return how many batches the loader would have, if its dataset had this many records."""
    batches = size // loader.batch_size if loader.drop_last else -(-size // loader.batch_size)
    return max(int(batches), 1)
