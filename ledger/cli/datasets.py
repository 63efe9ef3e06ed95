"""Commands about datasets."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from ledger.cli import held, past, show
from ledger.cli.options import (
    AcceptWeak,
    AtDelta,
    CeilingAtDelta,
    CeilingDelta,
    CeilingEpsilon,
    CeilingMu,
    DatasetName,
    Delta,
    Epsilon,
    Json,
    Mu,
    Reason,
    Slack,
    budget_or_none,
    given_fields,
)
from ledger.cli.server_call import print_answer, server, unless_proposed
from ledger.errors import InvalidRequest
from ledger.verifier.witness import tokens

dataset_app = typer.Typer(no_args_is_help=True, help="Datasets and their budgets.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel="Stewards and admins", epilog="Example: privacy-ledger overview")(overview)
    past.add_to(dataset_app)
    app.add_typer(dataset_app, name="dataset", rich_help_panel="Stewards and admins")


def _budget(
    epsilon: Decimal | None, at_delta: Decimal | None, slack: Decimal | None, mu: Decimal | None, delta: Decimal | None
) -> dict[str, Any]:
    budget = budget_or_none(epsilon, at_delta, slack, mu, delta)
    if budget is None:
        raise InvalidRequest(
            "The budget is missing. Give --epsilon and --at-delta, or --mu (and --delta).", field="budget"
        )
    return budget


@dataset_app.command("create", epilog="Example: privacy-ledger dataset create mnist --epsilon 3 --at-delta 1e-5")
def dataset_create(
    name: DatasetName,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    privacy_unit: Annotated[
        str | None, typer.Option(help="Whose privacy is protected: record (the default), user, …")
    ] = None,
    adjacency: Annotated[
        str | None, typer.Option(help="add_or_remove_one (the default), replace_one or zero_out.")
    ] = None,
    bound: Annotated[
        str | None, typer.Option(help="certified: a guarantee (the default); clt: the published estimate.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="The size of the dataset: public, and nominal.")] = None,
    title: Annotated[str, typer.Option(help="A title, for people.")] = "",
    description: Annotated[str, typer.Option(help="What the data is, for people.")] = "",
    partition: Annotated[
        list[str] | None,
        typer.Option(help="A part of the data. You affirm that no privacy unit is in two parts. Can be repeated."),
    ] = None,
    partitioned: Annotated[
        bool, typer.Option("--partitioned", help="It will have partitions; `add-partitions` adds them.")
    ] = False,
    derived_from: Annotated[
        list[str] | None,
        typer.Option(help="The dataset that this one is a copy, filter or join of. Can be repeated."),
    ] = None,
    unit_preserving: Annotated[
        bool,
        typer.Option(
            "--unit-preserving",
            help="Affirm that one privacy unit of --derived-from changes only its own rows here, and that the rows"
            " of one unit are clipped and sampled together.",
        ),
    ] = False,
    ceiling_epsilon: CeilingEpsilon = None,
    ceiling_at_delta: CeilingAtDelta = None,
    ceiling_mu: CeilingMu = None,
    ceiling_delta: CeilingDelta = None,
    costing: Annotated[
        str | None,
        typer.Option(
            help="residual: cost certified runs beside what is left, so that more fit. standalone: each by itself."
            " Default: residual if certified."
        ),
    ] = None,
    accept_weak_protection: AcceptWeak = False,
    as_json: Json = False,
) -> None:
    """Register a dataset with its budget. A dataset that is derived from others needs no budget."""
    if derived_from and not unit_preserving:
        raise InvalidRequest(
            "derived_from: --unit-preserving is missing. Add it if one privacy unit of the original changes only its"
            " own rows here. If it changes others, do not register the dataset so: its costs would be wrong.",
            field="derived_from",
        )
    budget_of = budget_or_none if derived_from else _budget
    unsaid = {} if derived_from else {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "certified"}
    ceiling = budget_or_none(ceiling_epsilon, ceiling_at_delta, None, ceiling_mu, ceiling_delta, field="ceiling")
    given = given_fields(
        privacy_unit=privacy_unit,
        adjacency=adjacency,
        bound=bound,
        budget=budget_of(epsilon, at_delta, slack, mu, delta),
        size=size,
        partitions=partition or ([] if partitioned else None),
        derived_from=[{"name": parent, "unit_preserving": True} for parent in derived_from or ()] or None,
        ceiling=ceiling,
        costing=costing,
        accepts_weak_protection=accept_weak_protection or None,
    )
    with server() as ledger:
        made = ledger.register(name=name, title=title, description=description, **{**unsaid, **given})
    print_answer(made, as_json, show.datasets.dataset)


@dataset_app.command("list", epilog="Example: privacy-ledger dataset list")
def dataset_list(as_json: Json = False) -> None:
    """List the datasets that your key may read."""
    with server() as ledger:
        print_answer(list(ledger.datasets()), as_json, show.datasets.datasets)


def overview(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many at most.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the list before ended.")] = None,
    as_json: Json = False,
) -> None:
    """List the datasets that your key may read, the fullest first, and what waits for somebody."""
    with server() as ledger:
        print_answer(ledger.overview(limit=limit, cursor=cursor), as_json, show.datasets.overview)


@dataset_app.command("show", epilog="Example: privacy-ledger dataset show mnist --at 2026-10-01")
def dataset_show(
    name: DatasetName,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Its balance as it was then: 2026-10-01, yesterday, 30d (ago) or a time."),
    ] = None,
    at_seq: Annotated[int | None, typer.Option(min=1, help="Its balance after this entry of its journal.")] = None,
    as_json: Json = False,
) -> None:
    """Show a dataset with its balance, or its balance as it was."""
    with server() as ledger:
        if at is None and at_seq is None:
            print_answer(ledger.dataset(name), as_json, show.datasets.dataset)
        else:
            print_answer(ledger.balance_at(name, at=at, seq=at_seq), as_json, show.datasets.balance_at)


@dataset_app.command("burndown", epilog="Example: privacy-ledger dataset burndown mnist --by week --since 90d")
def dataset_burndown(
    name: DatasetName,
    by: Annotated[str, typer.Option(help="What a row is: day, week or month.")] = "day",
    partition: Annotated[str | None, typer.Option(help="Of this partition's budget.")] = None,
    project: Annotated[str | None, typer.Option(help="Of this project's share.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="From then on: 2026-10-01, yesterday, 30d or a time. Default: 90 rows."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then. Default: now.")] = None,
    as_json: Json = False,
) -> None:
    """Show what was spent and held of a budget over time, and how many runs were approved and refused."""
    of = {"partition": partition, "project": project}
    with server() as ledger:
        answer = ledger.burndown(name, by=by, since=since, until=until, **of)
    print_answer(answer, as_json, show.datasets.burndown)


@dataset_app.command("spending", epilog="Example: privacy-ledger dataset spending mnist --by label=sweep")
def dataset_spending(
    name: DatasetName,
    by: Annotated[str, typer.Option(help="person, project, month, or label=NAME for the values of a label.")],
    partition: Annotated[str | None, typer.Option(help="The partition, if the dataset has any.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only runs approved since: 2026-10-01, yesterday, 30d or a time."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the budget was spent on: the percent of it that each person, project, month or label took."""
    kind, equals, label = by.partition("=")
    with server() as ledger:
        answer = ledger.spending(name, by=kind, label=label if equals else None, partition=partition, since=since)
    print_answer(answer, as_json, show.datasets.spending)


@dataset_app.command("history", epilog="Example: privacy-ledger dataset history mnist")
def dataset_history(
    name: DatasetName,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what changed a dataset: who froze it, when, why and by which run; every budget; what was proposed."""
    with server() as ledger:
        newest = [item for _, item in zip(range(limit), ledger.history(name), strict=False)]
    print_answer(newest, as_json, show.datasets.history)


@dataset_app.command(
    "budget",
    epilog='Example: privacy-ledger dataset budget mnist --epsilon 4 --at-delta 1e-5 --reason "a second paper"',
)
def dataset_budget(
    name: DatasetName,
    reason: Reason,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    accept_weak_protection: AcceptWeak = False,
    lost_seq: Annotated[
        int | None, typer.Option(help="After a restore: the last entry that was lost, `kept_seq` of the error.")
    ] = None,
    lost_hash: Annotated[str | None, typer.Option(help="Its hash, `kept_hash` of the error.")] = None,
    receipt: Annotated[
        list[Path] | None, typer.Option(help="The receipt of a run that was lost; can be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set a new budget, not below what is spent and held. Raising it may need a second steward.

    With --lost-seq and --lost-hash it accounts for entries that a restore lost: give the receipts of their runs.
    """
    with server() as ledger:
        changed = ledger.set_budget(
            name,
            budget=_budget(epsilon, at_delta, slack, mu, delta),
            reason=reason,
            accepts_weak_protection=accept_weak_protection or None,
            lost=_lost(lost_seq, lost_hash, receipt or ()),
        )
    print_answer(changed, as_json, unless_proposed(show.datasets.dataset))


def _lost(seq: int | None, hash_: str | None, receipts: Sequence[Path]) -> dict[str, Any] | None:
    """Return the entries that were lost, in the form of the call. Raises InvalidRequest if a part is missing."""
    if seq is None and hash_ is None and not receipts:
        return None
    if seq is None or hash_ is None:
        raise InvalidRequest(
            "lost: give both --lost-seq and --lost-hash, as the error journal-contradicted shows them", field="lost"
        )
    texts = [(held.text_of(path, "receipt"), str(path)) for path in receipts]
    signed = [token for text, source in texts for token in tokens(text, "receipt", source)]
    return {"seq": seq, "hash": hash_, "receipts": signed}


@dataset_app.command("partitions", epilog="Example: privacy-ledger dataset partitions clicks")
def dataset_partitions(name: DatasetName, as_json: Json = False) -> None:
    """List a dataset's partitions, each with its balance."""
    with server() as ledger:
        print_answer(list(ledger.partitions(name)), as_json, show.datasets.partitions)


@dataset_app.command(
    "add-partitions",
    epilog='Example: privacy-ledger dataset add-partitions clicks 2026-11 --disjoint --reason "a new month"',
)
def dataset_add_partitions(
    name: DatasetName,
    partitions: Annotated[list[str], typer.Argument(metavar="PARTITION…", help="Their names.")],
    reason: Reason,
    disjoint: Annotated[
        bool, typer.Option("--disjoint", help="Affirm that no privacy unit is in two partitions; the journal keeps it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add partitions, each with the dataset's limit."""
    if not disjoint:
        raise InvalidRequest(
            "disjoint: --disjoint is missing. Add it if no privacy unit is in two partitions. A unit in two"
            " partitions would get the budget twice.",
            field="disjoint",
        )
    with server() as ledger:
        made = ledger.add_partitions(name, partitions, disjoint=True, reason=reason)
    answer = made if "proposal" in made else made["items"]
    print_answer(answer, as_json, unless_proposed(show.datasets.partitions))


@dataset_app.command(
    "project", epilog='Example: privacy-ledger dataset project clicks ranking --mu 0.5 --reason "its share of 2026"'
)
def dataset_project(
    name: DatasetName,
    project: Annotated[str, typer.Argument(help="The project's name.")],
    reason: Reason,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    as_json: Json = False,
) -> None:
    """Set a project's share of a dataset: a second limit, on the runs that name the project."""
    budget = _budget(epsilon, at_delta, slack, mu, delta)
    with server() as ledger:
        answer = ledger.set_project(name, project, budget=budget, reason=reason)
    print_answer(answer, as_json, unless_proposed(show.datasets.project))


@dataset_app.command(
    "fair-use", epilog='Example: privacy-ledger dataset fair-use mnist --runs-per-hour 50 --reason "shared by ten"'
)
def dataset_fair_use(
    name: DatasetName,
    reason: Reason,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    runs_per_hour: Annotated[
        int | None, typer.Option(help="How many runs one principal may ask for in an hour.")
    ] = None,
    waits_above: Annotated[
        int | None,
        typer.Option(
            min=0, max=99, help="A run that asks for more than this percentage of a limit waits for a steward."
        ),
    ] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Remove these limits.")] = False,
    as_json: Json = False,
) -> None:
    """Limit how much budget one principal may hold at once, how often it may ask, and what it may take alone.

    All limits are replaced: one that you leave out is removed.
    """
    held = budget_or_none(epsilon, at_delta, slack, mu, delta)
    if unlimited == bool(held or runs_per_hour or waits_above is not None):
        raise InvalidRequest(
            "Give one or more of --runs-per-hour, --waits-above and a budget that one principal may hold, such as --mu."
            " To remove the limits, give --unlimited alone.",
            field="held",
        )
    with server() as ledger:
        changed = ledger.set_fair_use(
            name, held=held, runs_per_hour=runs_per_hour, waits_above_percent=waits_above, reason=reason
        )
    print_answer(changed, as_json, unless_proposed(show.datasets.dataset))


def _set_state(name: str, state: str, reason: str, as_json: bool) -> None:
    with server() as ledger:
        print_answer(ledger.change(name, state=state, reason=reason), as_json, unless_proposed(show.datasets.dataset))


@dataset_app.command("freeze", epilog='Example: privacy-ledger dataset freeze mnist --reason "under review"')
def dataset_freeze(name: DatasetName, reason: Reason, as_json: Json = False) -> None:
    """Stop approving and starting runs on a dataset, until `thaw`."""
    _set_state(name, "frozen", reason, as_json)


@dataset_app.command("thaw", epilog='Example: privacy-ledger dataset thaw mnist --reason "reviewed"')
def dataset_thaw(name: DatasetName, reason: Reason, as_json: Json = False) -> None:
    """Undo `freeze`. For an overdrawn dataset this may need a second steward."""
    _set_state(name, "active", reason, as_json)


@dataset_app.command(
    "costing", epilog='Example: privacy-ledger dataset costing mnist residual --reason "a sweep of many trials"'
)
def dataset_costing(
    name: DatasetName,
    costing: Annotated[str, typer.Argument(help="residual: cost certified runs beside what is left.")],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Change how runs are costed from now on. This cannot be undone."""
    with server() as ledger:
        changed = ledger.change(name, costing=costing, reason=reason)
    print_answer(changed, as_json, unless_proposed(show.datasets.dataset))


@dataset_app.command("retire", epilog='Example: privacy-ledger dataset retire mnist --reason "deleted in March"')
def dataset_retire(name: DatasetName, reason: Reason, as_json: Json = False) -> None:
    """Stop approving and starting runs on a dataset permanently. This cannot be undone."""
    _set_state(name, "retired", reason, as_json)
