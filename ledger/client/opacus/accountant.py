"""`PrivacyEngine(accountant="ledger")`: Opacus' own accountant, which stops every step that no run covers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from opacus.accountants import PRVAccountant
from opacus.accountants.registry import register_accountant

from ledger.client.attached import NotCovered

NAME = "ledger"


class Counting(Protocol):
    """What counts steps before they are executed."""

    @property
    def noised(self) -> int:
        """Return how many counted steps have had their noise."""


class LedgerAccountant(PRVAccountant):
    """The accountant `prv`, for engines that others make: it never asks and never spends, it compares and stops.

    `attach()` without an engine binds it to a run when its engine makes a model private. A step that `attach` did not
    count raises NotCovered before the model is updated. Searches for a noise multiplier make accountants and write
    their history; these have no run, take no step, and are only computed with.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counting: Counting | None = None
        self._stepped = 0

    @classmethod
    def mechanism(cls) -> str:
        """Return its name in the registry of Opacus."""
        return NAME

    def bind(self, counting: Counting) -> None:
        """Let it compare its steps with those counted here."""
        if self._counting not in (None, counting):
            raise NotCovered("This accountant already belongs to a run. Make a new PrivacyEngine for each run.")
        self._counting = counting

    def get_optimizer_hook_fn(self, sample_rate: float) -> Callable[[Any], None]:
        """Return what the optimizer calls at each step. Raises NotCovered if no run is attached."""
        if self._counting is None:
            raise NotCovered(
                'PrivacyEngine(accountant="ledger") trains only within a run. Before the trainer starts: training ='
                " ledger.client.opacus.attach(dataset=…, epochs=…); after it: training.finish()"
            )
        hook: Callable[[Any], None] = super().get_optimizer_hook_fn(sample_rate)
        return hook

    def step(self, *, noise_multiplier: float, sample_rate: float) -> None:
        """Record a step that is counted. Raises NotCovered, and records nothing, for one that is not."""
        counted = -1 if self._counting is None else self._counting.noised
        if counted != self._stepped + 1:
            raise NotCovered(
                f"Step {self._stepped + 1} of the accountant was not counted by a run: the optimizer is another one"
                " than make_private returned. Do not use its gradients."
            )
        self._stepped = counted
        super().step(noise_multiplier=noise_multiplier, sample_rate=sample_rate)


register_accountant(NAME, LedgerAccountant, force=True)
