"""A run around the training loop of another library: begun when it is attached, settled when it ends.

What stacks have in common: `jax_privacy`, `tensorflow_privacy`, `flower` and `nvflare` are built on it. Each reads what
its library really does, refuses the rest with NotCovered, and counts each step before it is executed.
"""

from __future__ import annotations

import atexit
import importlib
import logging
import math
import os
import sys
from collections.abc import Mapping, Sequence
from decimal import ROUND_FLOOR, Context, Decimal
from types import TracebackType
from typing import Any, Final, Self

from ledger.client.calls import get
from ledger.client.ledgers import Ledger
from ledger.client.mechanisms import AnyMechanism
from ledger.client.runs import Run
from ledger.client.scopes import RunScope
from ledger.errors import LedgerError

log = logging.getLogger("ledger.client")

SLACK: Final = Decimal("1e-6")
"""The share by which a noise multiplier is rounded down: libraries compute it, and add it, in single precision."""
REFUSED_OPTIONS: Final = frozenset({"mechanism", "datasets", "allow_overrun", "segments"})
IF_SHORTER: Final = (
    "If a training may stop early, attach one for each part of it: what was not asked for is not charged."
)
_ROUNDED_DOWN: Final = Context(prec=10, rounding=ROUND_FLOOR)


class NotCovered(LedgerError):
    """The training does something else than what was or would be approved. Nothing of it was executed."""

    code = "not-covered"


class Unfinished(Exception):
    """The process ended before the training was finished."""


class Ending:
    """The end of a run around a training: once, however often it is ended; at the end of the process in doubt for more.

    A subclass gives `run`, `differences`, and what is `recorded`. name: under which the run's evidence has that.
    """

    name: str
    _run: Run | None = None
    _scope: RunScope | None = None

    @property
    def run(self) -> Run:
        raise NotImplementedError

    def has_begun(self, scope: RunScope, run: Run) -> None:
        """Take a run that was entered, and settle it at the end of the process at the latest."""
        self._scope, self._run = scope, run
        atexit.register(self._end)

    def differences(self) -> list[str]:
        """Return how what was executed differs from what was approved, and from the library's own accountant."""
        raise NotImplementedError

    def recorded(self, differences: list[str]) -> dict[str, Any]:
        """Return what is recorded beside the facts of the beginning when the run ends."""
        raise NotImplementedError

    def _close(self) -> None:
        """Close the client, if it belongs to this training."""
        raise NotImplementedError

    def finish(self, error: BaseException | None = None) -> None:
        """Settle the run, and log one line if what was executed differs from what was approved.

        If the ledger does not answer, the settlement is kept on disk, that is logged, and `run.is_pending` is True.
        error: what ended the training early. Can be repeated. Raises as leaving `Ledger.run` does.
        """
        atexit.unregister(self._end)
        scope, self._scope = self._scope, None
        if scope is None:
            return
        differences = self.differences()
        self.run.evidence[self.name] |= self.recorded(differences)
        try:
            scope.__exit__(None if error is None else type(error), error, None)
        finally:
            if differences:
                log.warning("Run %s: %s.", self.run.id, "; ".join(differences))
            self._close()

    def let_go(self) -> None:
        """Leave the run to a later process, and settle nothing. Its steps so far are written down."""
        atexit.unregister(self._end)
        scope, self._scope = self._scope, None
        if scope is not None:
            scope.let_go()

    def _end(self) -> None:
        """Settle at the end of a process that did not call `finish`: in doubt for more."""
        try:
            self.finish(Unfinished("The process ended before finish()."))
        except Exception as failure:
            log.warning("%s", failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.finish(error)


class Attached(Ending):
    """A run of one training. A subclass gives `differences`, `at_end` and what stops a wrong step.

    datasets: of the ledger, one name or several. ledger:
    default Ledger(). options: for `Ledger.run`: purpose, project, labels, idempotency_key, steps_done, …
    """

    def __init__(
        self,
        dataset: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]],
        ledger: Ledger | None,
        options: Mapping[str, Any],
    ) -> None:
        refused = REFUSED_OPTIONS & options.keys()
        if refused:
            raise TypeError(f"{', '.join(sorted(refused))}: that follows from what is executed; leave it out")
        self._datasets: list[str | Mapping[str, Any]] = (
            [dataset] if isinstance(dataset, str | Mapping) else list(dataset)
        )
        self._own, self._options = ledger is None, dict(options)
        self._ledger = ledger or Ledger()
        self.mechanism: AnyMechanism | None = None

    # --- the beginning

    def terms(self) -> dict[str, Any]:
        """Return the first dataset: its privacy_unit and adjacency decide what can be asked for."""
        first = self._datasets[0]
        name = first if isinstance(first, str) else str(first["name"])
        return self._ledger._answer_soon(get("datasets", name))  # noqa: SLF001 (both are the client)

    def begin(self, mechanism: AnyMechanism, facts: Mapping[str, Any]) -> Run:
        """Ask for the run, start it, and record the facts. Raises BudgetExceeded, RunState, LedgerError."""
        scope = self._ledger.run(datasets=self._datasets, mechanism=mechanism, **self._options)
        run = scope.__enter__()
        try:
            self._demand_run(run)
        except BaseException:
            scope.let_go()
            raise
        self.mechanism = mechanism
        self.has_begun(scope, run)
        run.evidence[self.name], run.if_shorter = dict(facts), IF_SHORTER
        return run

    def _demand_run(self, run: Run) -> None:
        """Refuse a run that cannot go on here, as after a restart that lost something. Raises NotCovered."""

    @property
    def run(self) -> Run:
        """Return the run. Raises NotCovered before it was asked for."""
        if self._run is None:
            raise NotCovered("There is no run yet.")
        return self._run

    @property
    def is_over(self) -> bool:
        """Return whether the run was settled, or its settlement waits on disk."""
        return self._scope is None and self._run is not None

    @property
    def steps_left(self) -> int:
        """Return how many more steps may be executed."""
        return (self.run.planned_steps or 0) - self.run.steps

    # --- the end

    def differences(self) -> list[str]:
        """Return how what was executed differs from what was approved, and from the library's own accountant."""
        run = self.run
        if run.steps == run.planned_steps:
            return []
        return [f"{run.steps} of {run.planned_steps} approved steps were executed"]

    def at_end(self) -> dict[str, Any]:
        """Return what is recorded beside these facts when the run ends."""
        return {}

    def recorded(self, differences: list[str]) -> dict[str, Any]:
        return {"resumed": self.run.is_resumed, "differences": differences, **self.at_end()}

    def _close(self) -> None:
        if self._own:
            self._ledger.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._run!r}>"


def demand_version(module: str, distribution: str, known: str) -> str:
    """Return the version of a library. Raises NotCovered for another than the one whose source was read."""
    from importlib.metadata import version

    importlib.import_module(module)
    installed = version(distribution)
    if installed != known and not installed.startswith(f"{known}."):
        raise NotCovered(
            f"{distribution} {installed} is installed. Version {known} is known here; others draw, count or scale noise"
            f" in other ways. Install it: pip install '{distribution}=={known}.*'"
        )
    return installed


def rounded_down(noise: float) -> Decimal:
    """Return a noise multiplier that the executed one is not below, with ten digits. Raises NotCovered for no noise."""
    if not 0 < noise < math.inf:
        raise NotCovered(
            f"noise_multiplier: {noise!r} adds no noise that can be accounted for. Give a number above 0, or train"
            " without the ledger on data that needs no protection."
        )
    exact = Decimal(float(noise))
    short = Decimal(repr(float(noise)))
    return _ROUNDED_DOWN.multiply(exact, 1 - SLACK) if len(short.as_tuple().digits) > 10 else short


def demand_adjacency(terms: Mapping[str, Any], stated: str | None, library: str) -> str:
    """Return the adjacency of a dataset. Raises NotCovered if the library's objects were made for another."""
    adjacency, name = str(terms["adjacency"]), terms["name"]
    if stated is not None and stated != adjacency:
        raise NotCovered(
            f"{library} was made for {stated}, and {name} is registered with {adjacency}: the two have other"
            f" neighbours. Make it for {adjacency}, or train on a dataset that is registered with {stated}."
        )
    return adjacency


def demand_records(terms: Mapping[str, Any], max_examples_per_user: int | None, what: str) -> None:
    """Refuse units of several records that nobody bounded. Raises NotCovered."""
    unit, name = terms["privacy_unit"], terms["name"]
    if unit != "record" and max_examples_per_user is None:
        raise NotCovered(
            f"The privacy unit of {name} is {unit!r}, and {what} by itself. Give the most of them that one unit has:"
            " attach(…, max_examples_per_user=…), 1 if each is a unit."
        )


def seeded_by_system(words: int) -> list[int]:
    """Return this many words of 32 bits from the operating system, for a generator's seed."""
    raw = os.urandom(4 * words)
    return [int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw), 4)]


def whole(value: Any, name: str) -> int:
    """Return a whole number of at least 1. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: {value!r} is not a whole number of at least 1")
    return value
