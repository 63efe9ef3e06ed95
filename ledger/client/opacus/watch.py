"""What is counted and checked at each draw and step, before it is executed."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from opacus.optimizers import DPOptimizerFastGradientClipping
from opacus.utils.batch_memory_manager import BatchSplittingSampler

from ledger.client.attached import NotCovered
from ledger.client.opacus.checks import demand_clipping
from ledger.client.runs import Run

SCALER: Final = "torch.amp.grad_scaler"
FRAMES_MAX: Final = 12
"""How many callers of a step are looked at: schedulers, profilers and the scaler wrap it once each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approved:
    """What was approved, in the terms of the objects that execute it.

    noises: the least noise multiplier of each phase, with its steps. sample_rate: as it was set in the sampler; None
    for shuffled batches. passes: how many passes over the loader; None for Poisson samples, which need none.
    rows_per_record: how many rows of gradients each drawn record has, each clipped by itself.
    """

    noises: tuple[tuple[float, int], ...]
    sample_rate: float | None
    passes: int | None
    draws_per_step: int
    divisor: float | None
    rows_per_record: int = 1

    def noise_of(self, step: int) -> float:
        """Return the least noise multiplier of this step, from 0; that of the last phase beyond the plan."""
        for noise, steps in self.noises:
            if step < steps:
                return noise
            step -= steps
        return self.noises[-1][0]


class Watch:
    """Counts draws and steps of one optimizer and loader, and stops what was not approved.

    draws: batches that the sampler drew. noised: steps that got their noise. unused: draws at the end of a pass that
    the loop left before a step. is_rebuilt: whether a step took its batch from a loader that others put around the
    sampler, so that draws and steps can only be compared by their numbers. is_over: whether the run was settled.
    is_ahead: whether the loop takes batches from the loader before it has used the last one, as those with workers do.
    """

    def __init__(self, run: Run, approved: Approved, *, module: Any, optimizer: Any, loader: Any) -> None:
        self.run, self.approved = run, approved
        self._module, self._optimizer, self._loader = module, optimizer, loader
        self._sampler = loader.batch_sampler
        self._generators = (optimizer.generator, getattr(self._sampler, "generator", None))
        self.draws = self.passes = self.noised = self.unused = 0
        self.is_rebuilt = self.is_over = False
        self.is_ahead = bool(loader.num_workers)
        self._sizes: deque[int] = deque()
        self._rows = 0
        self._kind = torch.get_default_dtype()
        self._steps = self._batches = self._joined = 0
        self._is_own_loader = self._is_split = self._has_rest = False
        self._clip_norm: float | None = None
        self._install()

    def _install(self) -> None:
        for name, counted in (
            ("pre_step", self._pre_step),
            ("add_noise", self._add_noise),
            ("signal_skip_step", self._signal_skip_step),
        ):
            inner = getattr(self._optimizer, name)
            setattr(self._optimizer, name, functools.wraps(inner)(functools.partial(counted, inner)))
        _watch_sampler(self._sampler, self)
        _watch_loader(self._loader, self)

    # --- draws

    def on_pass(self) -> None:
        """Count the beginning of a pass over the loader. Raises NotCovered for one too many, and for a rest."""
        if self.approved.passes is not None and self.passes >= self.approved.passes:
            raise NotCovered(
                f"Pass {self.passes + 1} over the shuffled batches is beyond the {self.approved.passes} epochs that"
                " were approved: a record would be in one more batch. End the loop there, or attach with more epochs."
            )
        if self.approved.draws_per_step == 1:
            self._demand_no_rest()
            self.unused += self._batches
            self._batches = 0
        self.passes += 1
        self._is_own_loader = self._is_split = False
        self._sizes.clear()

    def on_draw(self, size: int) -> None:
        """Count a batch of the sampler. Raises NotCovered if it has other bits than the rate was read for."""
        self.draws += 1
        self._sizes.append(size)
        if torch.get_default_dtype() is not self._kind:
            raise NotCovered(
                f"torch's default type is {torch.get_default_dtype()} now, and was {self._kind} when the sample rate"
                " was read: torch.rand has other bits, and draws at another rate. Set it before make_private only."
            )

    def on_loop(self) -> None:
        """Note that the loop takes its batches from the loader itself."""
        self._is_own_loader = True

    def on_batch(self) -> None:
        """Count a batch that the loop is about to get. Raises NotCovered if too many came before it without a step."""
        if self._batches >= self.approved.draws_per_step:
            raise NotCovered(
                f"Batch {self._batches + 1} was taken, and no step was made for the last one. A batch that is left out,"
                " as if it were empty or its loss not a number, has no noise; two that are joined can have one record"
                " twice. Make one step for each batch, also for an empty one. To look at training data for other"
                " reasons, use another loader, and ask for that use."
            )
        self._batches += 1

    def _demand_no_rest(self) -> None:
        """Refuse a new pass that would join what an early `break` left of the last batch."""
        if self._has_rest or self._optimizer._step_skip_queue:  # noqa: SLF001 (Opacus has no public name for it)
            raise NotCovered(
                "The loop was left within a batch that BatchMemoryManager had split, and the next step would join its"
                " gradients with another draw's. Leave the loop only if training.is_between_steps; or drop the batch"
                " with training.discard(), if you did not look at the data when you stopped."
            )

    @property
    def is_between_steps(self) -> bool:
        """Return whether every part of the last batch is in a step."""
        return not (self._has_rest or self._optimizer._step_skip_queue)  # noqa: SLF001

    def discard(self) -> None:
        """Drop the gradients of a batch that the loop left, and the signals for its other parts."""
        if self._has_rest:
            self.unused += 1
            self._sizes.popleft()
        self._optimizer._step_skip_queue.clear()  # noqa: SLF001
        self._optimizer._is_last_step_skipped = False  # noqa: SLF001
        self._optimizer.zero_grad()
        self._has_rest, self._batches, self._joined, self._rows, self._clip_norm = False, 0, 0, 0, None

    # --- steps

    def _signal_skip_step(self, inner: Callable[..., None], do_skip: bool = True) -> None:
        """Let BatchMemoryManager split a batch, and refuse others who would join two."""
        is_splitter = sys._getframe(1).f_code is BatchSplittingSampler.__iter__.__code__  # noqa: SLF001
        queue = self._optimizer._step_skip_queue  # noqa: SLF001
        if is_splitter and self.approved.draws_per_step == 1:
            self._is_split = True
            if queue and not self.is_ahead:
                raise NotCovered(
                    "A part of a batch that BatchMemoryManager split was taken, and optimizer.step() was not called for"
                    " it. Call it for each part, also for an empty one: Opacus makes a step only after the last."
                )
        elif is_splitter or (do_skip and self.approved.draws_per_step == 1) or queue:
            raise NotCovered(
                "signal_skip_step() joins two draws in one step: a record is in both with the square of the sample"
                " rate, and Opacus records one draw. Make one step for each draw, with a larger batch_size, and split"
                " it for memory with BatchMemoryManager; or attach with draws_per_step, and without BatchMemoryManager."
            )
        if is_splitter or do_skip:
            # A signal not to skip does nothing in a plain loop, and would come before those of BatchMemoryManager.
            inner(do_skip)

    def _pre_step(self, inner: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Count a step before it is executed, unless it only adds a part to the sum of a later one."""
        optimizer = self._optimizer
        self._demand_unchanged()
        rows = self._rows + _rows_of(optimizer)
        queue = optimizer._step_skip_queue  # noqa: SLF001
        if queue and queue[0]:
            self._demand_joinable()
            result = inner(*args, **options)
            self._has_rest, self._rows = True, rows
            return result
        self._demand_step()
        self._demand_rows(rows)
        self.run.step()
        self._steps += 1
        noised = self.noised
        result = inner(*args, **options)
        if self.noised != noised + 1:
            raise NotCovered("The step got no noise. Do not use its gradients.")
        self._batches = self._joined = self._rows = 0
        self._has_rest, self._clip_norm = False, None
        return result

    def _demand_rows(self, rows: int) -> None:
        """Raise NotCovered unless each drawn record has the rows that were approved, each of which is clipped."""
        if self.approved.draws_per_step > 1 or isinstance(self._optimizer, DPOptimizerFastGradientClipping):
            return
        if not self._sizes:
            raise NotCovered(_ELSEWHERE)
        drawn = self._sizes.popleft()
        most = drawn * self.approved.rows_per_record
        if rows != most:
            raise NotCovered(
                f"Step {self.run.steps + 1} has gradients of {rows} rows, and {drawn} records were drawn: {most}"
                " rows are approved. Each row is clipped by itself, so a record that is in several rows, as in"
                " preference pairs, moves the sum by several clip norms, and one that shares a row with others, as in"
                " packing, has no bound. Let the model see one row for each record; or, if each has the same number,"
                " attach with rows_per_record."
            )

    def _add_noise(self, inner: Callable[[], None]) -> None:
        self.noised += 1
        inner()

    def _demand_joinable(self) -> None:
        """Count the parts of a step that a callback joins, if that was approved."""
        if self._is_split:
            return
        self._joined += 1
        if self._joined >= self.approved.draws_per_step:
            raise NotCovered(
                f"Step {self._steps + 1} would join more than {self.approved.draws_per_step} draws. Attach with more"
                " draws_per_step, or step earlier."
            )

    def _demand_step(self) -> None:
        """Raise NotCovered unless this step is one that was approved."""
        optimizer, approved = self._optimizer, self.approved
        least = approved.noise_of(self.run.steps)
        if not optimizer.noise_multiplier >= least:
            raise NotCovered(
                f"Step {self.run.steps + 1} would have noise multiplier {optimizer.noise_multiplier:g}, and"
                f" {least:g} is approved. Leave the noise as it is, or attach with its noise_schedule."
            )
        draws_least = self._steps + 1 if approved.draws_per_step == 1 else 1
        self.is_rebuilt |= not (self._is_own_loader or self._is_split)
        if self.draws < draws_least or (self._is_own_loader and not self._batches):
            raise NotCovered(_ELSEWHERE)
        if not isinstance(optimizer, DPOptimizerFastGradientClipping) and _parts(optimizer) > 1:
            raise NotCovered(
                "The gradients of several batches were accumulated in one step. Make one step for each batch; for large"
                " ones use BatchMemoryManager."
            )
        _demand_no_scaler()

    def _demand_unchanged(self) -> None:
        """Raise NotCovered if the objects no longer do what was approved."""
        optimizer, approved = self._optimizer, self.approved
        if self.is_over:
            raise NotCovered("The run is settled: finish() was called. Attach a new training, and do not step here.")
        demand_clipping(self._module, optimizer)
        norm = float(optimizer.max_grad_norm)
        if self._clip_norm not in (None, norm):
            raise NotCovered(
                f"The clip norm changed from {self._clip_norm:g} to {norm:g} within a step, so that its noise is for"
                " another norm than its gradients. Change it between steps only."
            )
        self._clip_norm = norm
        if (optimizer.generator, getattr(self._sampler, "generator", None)) != self._generators:
            raise NotCovered(
                "The random generator of the noise or of the draws was replaced: a known or repeated seed gives no"
                " protection. Leave optimizer.generator and the sampler's generator as attach() set them."
            )
        if approved.sample_rate is not None and self._sampler.sample_rate != approved.sample_rate:
            raise NotCovered(
                f"The sampler draws at {self._sampler.sample_rate:g} now, and {approved.sample_rate:g} is approved."
                " Leave it as it is, or attach a run for each rate."
            )
        if optimizer.loss_reduction == "mean" and optimizer.expected_batch_size != approved.divisor:
            raise NotCovered(
                f"expected_batch_size is {optimizer.expected_batch_size} now; the public divisor is {approved.divisor}."
                " Leave it as attach() set it."
            )


_ELSEWHERE: Final = (
    "The batch of this step was not drawn by the loader that make_private returned, or was used in a step before. Train"
    " on that loader, and make one step for each batch."
)


def _parts(optimizer: Any) -> int:
    """Return how many batches a step would join. What is missing, Opacus itself reports."""
    try:
        return int(optimizer.accumulated_iterations)
    except ValueError:
        return 1


def _rows_of(optimizer: Any) -> int:
    """Return how many rows of gradients there are, the most of any parameter. What is missing, Opacus reports."""
    samples = (getattr(parameter, "grad_sample", None) for parameter in optimizer.params)
    return max((len(one) for sample in samples for one in _as_list(sample)), default=0)


def _as_list(sample: Any) -> list[Any]:
    """Return the gradients of each backward pass."""
    if sample is None:
        return []
    return sample if isinstance(sample, list) else [sample]


def _demand_no_scaler() -> None:
    """Refuse a step that a float16 loss scaler makes: it leaves out those in which a record makes an overflow."""
    frame: Any = sys._getframe(1)  # noqa: SLF001
    for _ in range(FRAMES_MAX):
        if frame is None:
            return
        if frame.f_globals.get("__name__") == SCALER:
            raise NotCovered(
                "A loss scaler (GradScaler, float16) leaves out a step with an overflow, without noise, when certain"
                " records are in the batch. Use torch.autocast with bfloat16, which needs no scaler."
            )
        frame = frame.f_back


# --- loaders and samplers that are counted


def _watch_sampler(sampler: Any, watch: Watch) -> None:
    """Let a batch sampler report the beginning of each pass, and each draw."""
    plain = type(sampler)

    def draws(self: Any) -> Iterator[Any]:
        watch.on_pass()
        for indices in plain.__iter__(self):
            watch.on_draw(len(indices))
            yield indices

    _with_iter(sampler, draws)


def _watch_loader(loader: Any, watch: Watch) -> None:
    """Let a loader report each batch before the loop gets it."""
    plain = type(loader)

    def batches(self: Any) -> Iterator[Any]:
        return _loop(watch, plain.__iter__(self))

    _with_iter(loader, batches)


def _loop(watch: Watch, batches: Iterator[Any]) -> Iterator[Any]:
    is_first = True
    for batch in batches:
        if is_first:
            watch.on_loop()
            is_first = False
        watch.on_batch()
        yield batch


def _with_iter(one: Any, method: Callable[[Any], Iterator[Any]]) -> None:
    """Give an object a class of its own with this `__iter__`. It stays an instance of its class before, as Opacus and
    trainers ask, and a loader takes no other sampler once it is made."""
    one.__class__ = type(f"Watched{type(one).__name__}", (type(one),), {"__iter__": method})


def fresh_generator(device: Any = "cpu") -> Any:
    """Return a generator that the operating system seeds, whatever seeds the script set."""
    generator = torch.Generator(device=device)
    generator.seed()
    return generator
