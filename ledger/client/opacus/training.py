"""A run around Opacus: `attach` before `make_private`, which then asks for what its objects really do."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any

from opacus import PrivacyEngine

from ledger.client.attached import Ending, NotCovered
from ledger.client.calls import get
from ledger.client.ledgers import Ledger
from ledger.client.mechanisms import DPSGD, AnyMechanism, DPSGDSchedule, declared
from ledger.client.opacus import checks, evidence
from ledger.client.opacus.accountant import LedgerAccountant
from ledger.client.opacus.plan import Earlier, Plan, Trainer
from ledger.client.opacus.watch import Approved, Watch, fresh_generator
from ledger.client.runs import Run
from ledger.client.scopes import RunScope

IF_EXCEEDED = "End the loop there. To train on, attach another training, with a PrivacyEngine of its own."
REFUSED_OPTIONS = frozenset({"mechanism", "datasets", "allow_overrun", "segments"})


def attach(
    privacy_engine: Any = None,
    *,
    dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
    epochs: int | None = None,
    steps: int | None = None,
    nominal_size: int | None = None,
    max_examples_per_user: int | None = None,
    draws_per_step: int = 1,
    rows_per_record: int = 1,
    noise_schedule: Iterable[tuple[float, int]] | None = None,
    ledger: Ledger | None = None,
    **options: Any,
) -> Training:
    """Let the next `make_private` of this engine ask the ledger for what its objects really do, and count each step.

    privacy_engine: the engine; None for the next one that is made with `accountant="ledger"`, as by a trainer.
    dataset: the dataset's name in the ledger, or several. epochs: how many passes over the loader; or steps: how many
    steps of the optimizer; or noise_schedule: (noise multiplier, steps) of each phase, if a scheduler changes it.
    nominal_size: a public number of records, fixed without looking at the data; from it follow sample rate, steps and
    divisor. It is required under add_or_remove_one, where the true number is protected.
    max_examples_per_user: the most records of one privacy unit, required if the unit is no record.
    draws_per_step: how many draws `signal_skip_step` joins in a step, as callbacks of trainers do; each costs.
    rows_per_record: how many rows the model sees of each drawn record, 2 for preference pairs; each is clipped by
    itself.
    ledger: default Ledger(). options: for `Ledger.run`: purpose, project, labels, idempotency_key, steps_done, …

    `make_private` raises BudgetExceeded if the run does not fit, and NotCovered, with what to change, if the training
    would do something that is not accounted for. `optimizer.step()` raises PlanExceeded before a step beyond the plan,
    and NotCovered before one that differs from what was approved. `finish()` settles the run; `with` does that too, and
    so does the end of the process.

    >>> training = attach(engine, dataset="digits", epochs=5, nominal_size=1_800)
    >>> model, optimizer, loader = engine.make_private(module=model, optimizer=optimizer, data_loader=loader, …)
    >>> training.run.planned_steps
    145
    """
    demand_options(options)
    plan = Plan(
        epochs=epochs,
        steps=steps,
        nominal_size=nominal_size,
        max_examples_per_user=max_examples_per_user,
        draws_per_step=draws_per_step,
        rows_per_record=rows_per_record,
        noise_schedule=None if noise_schedule is None else tuple(noise_schedule),
    )
    training = Training(plan, named(dataset), ledger, options)
    training.wrap(privacy_engine)
    return training


def demand_options(options: Mapping[str, Any]) -> None:
    """Raise TypeError for options of `Ledger.run` that a training answers itself."""
    refused = REFUSED_OPTIONS & options.keys()
    if refused:
        raise TypeError(f"a training takes no {', '.join(sorted(refused))}: that follows from what Opacus executes")


def named(dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]]) -> list[str | Mapping[str, Any]]:
    """Return one dataset or several as a list."""
    return [dataset] if isinstance(dataset, str | Mapping) else list(dataset)


class Training(Ending):
    """A training that asks for its run in `make_private`, and settles it in `finish`.

    mechanism: what it asked for; None until `make_private`. trainer: what makes its loop. earlier: what it goes on
    from. If the run of that is still open, this training goes on with it; otherwise it asks for one of the steps left.
    """

    name = "opacus"

    def __init__(
        self,
        plan: Plan,
        datasets: list[str | Mapping[str, Any]],
        ledger: Ledger | None,
        options: dict[str, Any],
        *,
        trainer: Trainer | None = None,
        earlier: Earlier | None = None,
    ) -> None:
        self.mechanism: AnyMechanism | None = None
        self._plan, self._datasets, self._options = plan, datasets, options
        self._ledger, self._trainer, self._earlier = ledger, trainer or Trainer(), earlier
        self._open: Mapping[str, Any] | None = None
        self._watch: Watch | None = None
        self._engine: Any = None
        self._unwrap: Callable[[], None] = lambda: None
        self._owned: Ledger | None = None
        self._history_before: list[tuple[float, float, int]] = []

    def wrap(self, engine: Any) -> None:
        """Put the request before what `make_private` returns, of this engine or of the next with our accountant."""
        if engine is not None:
            original = engine.make_private
            if "make_private" in vars(engine):
                raise NotCovered(
                    "A training is attached to this engine already. Make a new PrivacyEngine for each run."
                )
            self._unwrap = functools.partial(_restore, engine, "make_private")
            engine.make_private = functools.wraps(original)(functools.partial(self._make_private, engine, original))
            return
        unbound = PrivacyEngine.make_private
        if hasattr(unbound, "_ledger_training"):
            raise NotCovered("A training without an engine is attached already. Call its finish() first.")

        @functools.wraps(unbound)
        def of_any_engine(one: Any, **given: Any) -> Any:
            make = functools.partial(unbound, one)
            return (
                self._make_private(one, make, **given)
                if isinstance(one.accountant, LedgerAccountant)
                else make(**given)
            )

        of_any_engine._ledger_training = self  # type: ignore[attr-defined]  # noqa: SLF001
        PrivacyEngine.make_private = of_any_engine
        self._unwrap = functools.partial(setattr, PrivacyEngine, "make_private", unbound)

    # --- the beginning

    def _make_private(self, engine: Any, original: Callable[..., Any], **given: Any) -> Any:
        """Make the objects, read what they do, and ask for that. Raises NotCovered, BudgetExceeded, LedgerError."""
        if self._watch is not None:
            raise NotCovered(
                "make_private was called before with this training. Another model or optimizer on the same data is"
                " another run: make a new PrivacyEngine, and attach it."
            )
        checks.demand_engine(engine)
        checks.demand_arguments(given)
        checks.demand_loader(given["data_loader"], is_poisson=_is_poisson(given))
        ledger = self._ledger or Ledger()
        try:
            return self._asked(ledger, engine, original, given)
        except BaseException:
            if self._run is None and self._ledger is None:
                ledger.close()
            raise

    def _asked(self, ledger: Ledger, engine: Any, original: Callable[..., Any], given: Mapping[str, Any]) -> Any:
        """Return what `make_private` made, once its run has begun. Without one, the model can be made private again."""
        adjacency = self._demand_unit(ledger, is_poisson=_is_poisson(given))
        self._open = None if self._earlier is None else _open_run(ledger, self._earlier)
        if isinstance(engine.accountant, LedgerAccountant):
            engine.accountant.bind(self)
        self._engine, self._history_before = engine, list(engine.accountant.history)
        made = original(**given)
        module, optimizer, loader = made[0], made[1], made[-1]
        try:
            approved, self.mechanism = self._prepared(engine, module, optimizer, loader, given)
            facts = evidence.at_start(
                engine,
                optimizer,
                given,
                is_poisson=_is_poisson(given),
                is_size_public=adjacency != "add_or_remove_one",
                draws_per_step=self._plan.draws_per_step,
                records_of_unit=self._plan.max_examples_per_user,
            )
            facts["libraries"] |= self._trainer.libraries
            facts["checked"] += self._trainer.checked
            facts["assumed"] += self._trainer.assumed
            scope = self._scope_of(ledger, self.mechanism)
            run = scope.__enter__()
            try:
                watch = Watch(run, approved, module=module, optimizer=optimizer, loader=loader)
                watch.passes = self._passes_before(run, approved, loader)
            except BaseException:
                scope.let_go()
                raise
        except BaseException:
            module.cleanup()
            raise
        self._watch, self._owned = watch, ledger if self._ledger is None else None
        self.has_begun(scope, run)
        run.evidence["opacus"], run.if_shorter, run.if_exceeded = facts, self._trainer.if_shorter, IF_EXCEEDED
        return made

    def _scope_of(self, ledger: Ledger, mechanism: AnyMechanism) -> RunScope:
        """Return the scope of a new run, or of the open one that a checkpoint belongs to. Raises NotCovered."""
        if self._open is None or self._earlier is None:
            scope: RunScope = ledger.run(datasets=self._datasets, mechanism=mechanism, **self._options)
            return scope
        approved, asked = self._open["request"]["mechanism"], declared(mechanism)
        if _rounded(approved) != _rounded(asked):
            raise NotCovered(
                f"The checkpoint is of run {self._earlier.run}, which is still open and was approved for"
                f" {dict(approved)}. This training would be {asked}. Train as it was approved; or end that run, and the"
                f" steps left are asked for as a run of their own: privacy-ledger settle {self._earlier.run}"
            )
        stated = {name: self._options[name] for name in ("steps_done", "restarts") if name in self._options}
        return ledger.resume(self._earlier.run, **stated)

    def _steps_left(self, batches: int) -> int | None:
        """Return how many steps to ask for, if a pass has this many batches. Raises NotCovered if none is left."""
        steps = self._plan.steps_in(batches)
        if steps is None or self._earlier is None or self._open is not None:
            return steps
        if steps <= self._earlier.steps:
            raise NotCovered(
                f"The checkpoint has {self._earlier.steps} steps, and the training ends after {steps}: none is left."
                " Raise its epochs or steps."
            )
        return steps - self._earlier.steps

    def _passes_before(self, run: Run, approved: Approved, loader: Any) -> int:
        """Return how many passes over shuffled batches earlier processes ended. Raises NotCovered if `restarts` leaves
        out the steps of a pass that they began: a loader goes on with a new order, never within the old one."""
        restarts = self._options.get("restarts")
        if approved.passes is None or not run.steps:
            return 0
        same = sum(one["to_step"] - one["from_step"] + 1 for one in restarts or () if not one["new_batches"])
        passes, rest = divmod(run.steps - int(same), len(loader.batch_sampler))
        first = run.steps - rest + 1
        is_stated = any(
            one["new_batches"] and one["from_step"] <= first and one["to_step"] >= run.steps for one in restarts or ()
        )
        if rest and not is_stated:
            raise NotCovered(
                f"restarts: earlier processes executed up to {run.steps} steps, and this one begins a new pass with a"
                f" new order, so that the records of steps {first} to {run.steps} come again. State it:"
                f" restarts=[{{'from_step': {first}, 'to_step': {run.steps}, 'new_batches': True}}]"
            )
        return passes

    def _prepared(
        self, engine: Any, module: Any, optimizer: Any, loader: Any, given: Mapping[str, Any]
    ) -> tuple[Approved, AnyMechanism]:
        """Give the objects public numbers and fresh seeds, and return what they will then do."""
        is_poisson = _is_poisson(given)
        checks.demand_made(module, optimizer, loader, is_poisson=is_poisson)
        self._fix_public_numbers(engine, optimizer, loader, given["data_loader"])
        if not engine.secure_mode:
            optimizer.generator = fresh_generator(optimizer.params[0].device)
            if is_poisson:
                loader.batch_sampler.generator = fresh_generator()
        return self._described(optimizer, loader, is_poisson=is_poisson)

    def _demand_unit(self, ledger: Ledger, *, is_poisson: bool) -> str:
        """Return the adjacency, or refuse what is missing under it or under the privacy unit. Raises NotCovered."""
        first = self._datasets[0]
        name = first if isinstance(first, str) else str(first["name"])
        terms = ledger._answer_soon(get("datasets", name))  # noqa: SLF001 (both are the client)
        unit, adjacency = terms["privacy_unit"], str(terms["adjacency"])
        if unit != "record" and self._plan.max_examples_per_user is None:
            raise NotCovered(
                f"The privacy unit of {name} is {unit!r}, and Opacus draws and clips each record by itself. Give the"
                " most records of one unit: attach(…, max_examples_per_user=…), 1 if each unit has one record."
            )
        if not is_poisson and self._plan.records_per_step > 1:
            raise NotCovered(
                "Shuffled batches with several records of a unit have no known cost. Use Poisson sampling."
            )
        if not is_poisson and self._plan.noise_schedule is not None:
            raise NotCovered("Shuffled batches with a noise_schedule have no known cost. Use Poisson sampling.")
        if adjacency != "add_or_remove_one":
            return adjacency
        if not is_poisson:
            raise NotCovered(
                f"poisson_sampling=False: without one record, all shuffled batches of {name} differ, and their number"
                " too. Use poisson_sampling=True; or register the dataset with --adjacency zero_out, under which the"
                " number of records is public."
            )
        if self._plan.nominal_size is None:
            raise NotCovered(
                f"The number of records of {name} is protected (add_or_remove_one), and make_private derives sample"
                " rate, steps and divisor from it. Give a public number, fixed without looking at the data:"
                " attach(…, nominal_size=…); or register the dataset with --adjacency zero_out."
            )
        return adjacency

    def _fix_public_numbers(self, engine: Any, optimizer: Any, loader: Any, source: Any) -> None:
        """Derive rate, steps and divisor from the nominal size, if there is one, as Opacus does from the true size."""
        size = self._plan.nominal_size
        if size is None:
            return
        batches = checks.batches_of(size, source)
        rate = 1 / batches
        optimizer.expected_batch_size = max(int(size * rate), 1)
        if hasattr(loader.batch_sampler, "sample_rate"):
            loader.batch_sampler.sample_rate = loader.sample_rate = rate
            loader.batch_sampler.steps = batches
            optimizer.attach_step_hook(engine.accountant.get_optimizer_hook_fn(sample_rate=rate))

    def _described(self, optimizer: Any, loader: Any, *, is_poisson: bool) -> tuple[Approved, AnyMechanism]:
        """Return what the objects will do, for them and for the ledger."""
        plan, noise = self._plan, float(optimizer.noise_multiplier)
        per_epoch = -(-len(loader.batch_sampler) // plan.draws_per_step)
        steps = self._steps_left(len(loader.batch_sampler))
        passes, rate = None, None
        mechanism: AnyMechanism
        if not is_poisson:
            passes = plan.epochs or -(-int(steps or 1) // per_epoch)
            mechanism = DPSGD(
                noise_multiplier=plan.noise_of(noise),
                sampling="shuffle",
                dataset_size=len(loader.dataset),
                batch_size=min(loader.batch_size, len(loader.dataset)),
                epochs=passes,
            )
        else:
            rate = loader.batch_sampler.sample_rate
            drawn = checks.drawn_rate(rate)
            if plan.noise_schedule is not None:
                mechanism = DPSGDSchedule(phases=plan.phases_at(drawn))
            else:
                many = plan.records_per_step if plan.records_per_step > 1 else None
                mechanism = DPSGD(
                    noise_multiplier=plan.noise_of(noise), sample_rate=drawn, steps=steps, max_examples_per_user=many
                )
        noises: tuple[tuple[float, int], ...] = ((noise, steps or 0),)
        if plan.noise_schedule is not None:
            noises = tuple((float(least), count) for least, count in plan.rounded_schedule)
        divisor = optimizer.expected_batch_size if optimizer.loss_reduction == "mean" else None
        approved = Approved(
            noises=noises,
            sample_rate=rate,
            passes=passes,
            draws_per_step=plan.draws_per_step,
            divisor=divisor,
            rows_per_record=plan.rows_per_record,
        )
        return approved, mechanism

    # --- in between

    @property
    def run(self) -> Run:
        """Return the run. Raises NotCovered before `make_private`, which asks for it."""
        if self._run is None:
            raise NotCovered("There is no run yet: make_private() asks for it.")
        return self._run

    @property
    def steps(self) -> int:
        """Return how many steps are counted, including those of `steps_done`."""
        return 0 if self._run is None else self._run.steps

    @property
    def noised(self) -> int:
        """Return how many steps of this process got their noise."""
        return 0 if self._watch is None else self._watch.noised

    @property
    def is_between_steps(self) -> bool:
        """Return whether the loop can be left now: no batch that BatchMemoryManager split waits for its other parts."""
        return self._watch is None or self._watch.is_between_steps

    def takes_ahead(self) -> None:
        """State that the loop takes a batch from the loader before it has used the last one, as with workers."""
        if self._watch is not None:
            self._watch.is_ahead = True

    def discard(self) -> None:
        """Drop the gradients of a batch that the loop left before its step. Do not decide that by looking at them."""
        if self._watch is not None:
            self._watch.discard()

    # --- the end

    def finish(self, error: BaseException | None = None) -> None:
        """Settle the run, and give `make_private` back. As `Attached.finish`."""
        self._unwrap()
        self._unwrap = lambda: None
        if self._watch is not None:
            self._watch.is_over = True
        super().finish(error)

    def recorded(self, differences: list[str]) -> dict[str, Any]:
        return {} if self._watch is None else evidence.at_end(self._watch, differences, self._trainer.rules_out)

    def _close(self) -> None:
        if self._owned is not None:
            self._owned.close()

    def differences(self) -> list[str]:
        """Return how what was executed differs from what was approved, and from what Opacus recorded."""
        if self._watch is None:
            return []
        watch, found = self._watch, []
        if self.run.steps != self.run.planned_steps:
            found.append(f"{self.run.steps} of {self.run.planned_steps} approved steps were executed")
        if watch.noised != self.run.steps_here:
            found.append(f"{self.run.steps_here} steps were counted and {watch.noised} got noise")
        if watch.unused:
            found.append(f"{watch.unused} draws were left without a step at the end of a pass")
        if watch.is_rebuilt:
            found.append(f"the loader was rebuilt by somebody: {watch.draws} draws and {watch.noised} steps")
        found += self._of_accountant(watch)
        return found

    def _of_accountant(self, watch: Watch) -> list[str]:
        name, recorded = (
            self._engine.accountant.mechanism(),
            evidence.since(self._engine.accountant, self._history_before),
        )
        found = []
        steps = sum(entry[2] for entry in recorded)
        if steps != watch.noised:
            found.append(f"Opacus' accountant ({name}) recorded {steps} steps, and {watch.noised} got noise")
        rate = watch.approved.sample_rate
        others = sorted({entry[1] for entry in recorded if rate is None or abs(entry[1] - rate) > 1e-6 * rate})
        if others and rate is None:
            found.append(f"Opacus' accountant ({name}) recorded Poisson samples, and the batches were shuffled")
        elif others:
            found.append(
                f"Opacus' accountant ({name}) recorded the sample rate {others[0]:.6g}, and the sampler drew at"
                f" {rate:.6g}: make_private takes 1/len(loader) after int(1/rate) lost a step"
            )
        if watch.approved.draws_per_step > 1:
            found.append(f"Opacus' accountant ({name}) recorded one draw for each step that joined several")
        return found

    def __repr__(self) -> str:
        return f"<Training of {self._run!r}>"


def _is_poisson(given: Mapping[str, Any]) -> bool:
    """Return whether these arguments of `make_private` ask for Poisson sampling, its default."""
    return bool(given.get("poisson_sampling", True))


def _open_run(ledger: Ledger, earlier: Earlier) -> Mapping[str, Any] | None:
    """Return the run of a checkpoint if it is still open."""
    info: Mapping[str, Any] = ledger.run_info(earlier.run)
    return info if info["state"] in ("held", "started") else None


def _rounded(mechanism: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mechanism with its numbers as floats, whatever they were sent as."""
    return {
        name: value if isinstance(value, str) or not isinstance(value, Real | Decimal) else float(value)
        for name, value in mechanism.items()
    }


def _restore(owner: Any, name: str) -> None:
    owner.__dict__.pop(name, None)
