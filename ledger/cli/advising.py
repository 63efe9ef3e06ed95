"""The command about known faults of accountants and training libraries: advisories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ledger.advisories import Advisory, Recorded, advisories, advisory, recorded, touched
from ledger.cli import completion, show
from ledger.cli.options import Json, given_fields
from ledger.cli.server_call import print_answer, server
from ledger.cli.show import console
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from ledger.client import Ledger

LIMIT_MAX: Final = 1000
_EXECUTED: Final = ("held", "started", "settled")
"""The states of runs that used data, or still can."""


def add_to(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command(name="advisories", rich_help_panel="Runs", epilog="Example: privacy-ledger advisories mnist")(
        list_advisories
    )


def list_advisories(
    dataset: Annotated[
        str | None, typer.Argument(help="Only runs of this dataset.", autocompletion=completion.dataset)
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only this run: its id, or its first 8 characters or more.")] = None,
    id_: Annotated[str | None, typer.Option("--id", help="Only this advisory.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only runs asked for since: 2026-10-01, 30d or a time."),
    ] = None,
    known: Annotated[
        bool, typer.Option("--known", help="List the advisories alone. This needs no server and no key.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=LIMIT_MAX, help="How many runs of each advisory at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List known faults of accountants and training libraries, and the recorded runs that each one touches.

    A run records its libraries in the evidence that it was settled with. A run that records none is not cleared:
    such runs are counted.
    """
    chosen = advisories() if id_ is None else (advisory(id_),)
    if known:
        if given_fields(dataset=dataset, run=run, since=since):
            raise InvalidRequest("known: --known lists no runs. Leave out DATASET, --run and --since.", field="known")
        print_answer([one.to_json() for one in chosen], as_json, show.advisories.known)
        return
    if run is not None and (dataset is not None or since is not None):
        raise InvalidRequest("run: --run names one run. Leave out DATASET and --since.", field="run")
    found = Found(chosen, limit)
    with server() as ledger, console.progress("Reading runs", quiet=as_json) as advance:
        for item in _runs(ledger, dataset=dataset, run=run, since=since):
            found.add(item)
            advance()
    print_answer(found.to_json(are_all_shown=id_ is not None), as_json, show.advisories.touched)


def _runs(ledger: Ledger, *, dataset: str | None, run: str | None, since: str | None) -> Iterator[Mapping[str, Any]]:
    if run is not None:
        yield ledger.run_info(run)
    else:
        yield from ledger.runs(**given_fields(dataset=dataset, since=since))


@dataclass(slots=True)
class _Runs:
    """The runs that one advisory touches: how many, and the first of them."""

    certain: int = 0
    possible: int = 0
    first: list[dict[str, Any]] = field(default_factory=list)


class Found:
    """What was found in the runs that were read. It keeps at most `limit` runs of each advisory."""

    def __init__(self, chosen: Iterable[Advisory], limit: int) -> None:
        self._by_id = {one.id: (one, _Runs()) for one in chosen}
        self._limit = limit
        # All libraries, so that a run which names one of another advisory counts as one that records something.
        self._libraries = frozenset(one.library for one in advisories())
        self._read = self._not_recorded = self._touched = 0

    def add(self, run: Mapping[str, Any]) -> None:
        """Count a run, and keep it where an advisory touches it. Refused and voided runs used no data."""
        if run["state"] not in _EXECUTED:
            return
        self._read += 1
        facts = recorded(run, known=self._libraries)
        if not facts.libraries:
            self._not_recorded += 1
            return
        self._touched += sum(self._add_to(one, runs, run, facts) for one, runs in self._by_id.values()) > 0

    def _add_to(self, one: Advisory, runs: _Runs, run: Mapping[str, Any], facts: Recorded) -> int:
        how = touched(one, facts)
        if how is None:
            return 0
        if how.is_certain:
            runs.certain += 1
        else:
            runs.possible += 1
        if len(runs.first) < self._limit:
            runs.first.append(_shown(run, how.unrecorded, facts, one))
        return 1

    def to_json(self, *, are_all_shown: bool) -> dict[str, Any]:
        """Return the result as a JSON object. are_all_shown: also the advisories that touch no run."""
        items = [
            {
                **one.to_json(),
                "certain": runs.certain,
                "possible": runs.possible,
                "runs": runs.first,
                "more": runs.certain + runs.possible > len(runs.first),
            }
            for one, runs in self._by_id.values()
            if are_all_shown or runs.first
        ]
        counts = {"read": self._read, "touched": self._touched, "not_recorded": self._not_recorded}
        return {"items": items, **counts, "advisories": len(self._by_id)}


def _shown(run: Mapping[str, Any], unrecorded: tuple[str, ...], facts: Recorded, one: Advisory) -> dict[str, Any]:
    settled = run.get("settled") or {}
    return {
        "run": run["id"],
        "state": run["state"],
        "datasets": [dataset["name"] for dataset in run["datasets"]],
        "versions": sorted(facts.libraries[one.library]),
        "charged": settled.get("charged"),
        "cost": run["cost"],
        "mechanism": (run.get("request") or {}).get("mechanism"),
        "unrecorded": list(unrecorded),
    }
