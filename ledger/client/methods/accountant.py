"""Calls to the accountant. They record nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ledger.client import calls
from ledger.client.calls import send
from ledger.client.mechanisms import AnyMechanism, Number
from ledger.client.methods.kinds import Answer, Calls


class Accountant(Calls[Answer]):
    """Evaluate mechanisms and plan runs."""

    def evaluate(
        self,
        *,
        mechanism: AnyMechanism,
        bound: str | None = None,
        adjacency: str | None = None,
        delta: Number | None = None,
        report_deltas: Sequence[Number] | None = None,
    ) -> Answer:
        """Compute the cost of a mechanism, and its epsilon. Nothing is recorded.

        adjacency: "add_or_remove_one", the default, "replace_one" or "zero_out".

        >>> ledger.evaluate(mechanism=Gaussian(noise_multiplier=5, count=4))["cost"]["mu"]
        0.4
        """
        return self._send(
            send(
                "POST",
                "evaluate",
                is_repeatable=True,
                mechanism=mechanism,
                bound=bound,
                adjacency=adjacency,
                delta=delta,
                report_deltas=report_deltas,
            )
        )

    def plan(
        self,
        *,
        datasets: Sequence[str | Mapping[str, Any]] | None = None,
        mechanism: AnyMechanism,
        delta: Number | None = None,
        segments: int | None = None,
        project: str | None = None,
        solve_for: str | None = None,
        size_differs: str | None = None,
        budget: Mapping[str, Any] | None = None,
        bound: str | None = None,
        adjacency: str | None = None,
        at_most_percent: Number | None = None,
    ) -> Answer:
        """Check whether a run would fit now, and what it would leave. Nothing is recorded.

        `solve_for` names a parameter of the mechanism to solve for, or `runs` for how many such runs fit. If the run
        does not fit, `fits` is False; nothing is raised. `size_differs`: as for `run`.

        `budget` in place of `datasets` plans as on a new dataset with that budget; `bound` and `adjacency` go with it.
        `at_most_percent` is the most that the run may take of what is left.

        >>> planned = ledger.plan(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=5), solve_for="runs")
        >>> planned["fits"], planned["solution"]["value"]
        (True, 24)
        """
        return self._send(
            calls.plan(
                datasets=datasets,
                mechanism=mechanism,
                delta=delta,
                segments=segments,
                project=project,
                solve_for=solve_for,
                size_differs=size_differs,
                budget=budget,
                bound=bound,
                adjacency=adjacency,
                at_most_percent=at_most_percent,
            )
        )

    def plan_runs(self, runs: Sequence[Mapping[str, Any]], *, as_many_as_fit: bool = False) -> Answer:
        """Check which of up to 1000 runs would fit, asked for one after another, and what they would leave.

        Each is the arguments of `ask`. `order` is one in which more of them fit, if there is one. as_many_as_fit: as
        `ask_batch` approves them with it. Nothing is recorded.

        >>> trial = {"datasets": ["mnist"], "mechanism": Gaussian(noise_multiplier=5)}
        >>> ledger.plan_runs([trial, trial])["fitting"]
        2
        """
        mode = as_many_as_fit or None
        return self._send(send("POST", "plan", "runs", is_repeatable=True, runs=runs, as_many_as_fit=mode))
