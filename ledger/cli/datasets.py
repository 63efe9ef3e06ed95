"""Commands about datasets."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer

from ledger.cli import show
from ledger.cli.options import (
    AtDelta,
    CeilingAtDelta,
    CeilingDelta,
    CeilingEpsilon,
    CeilingMu,
    Delta,
    Epsilon,
    Json,
    Mu,
    Reason,
    Slack,
    given_fields,
)
from ledger.cli.server_call import print_answer, server, unless_proposed
from ledger.errors import InvalidRequest

dataset_app = typer.Typer(no_args_is_help=True, help="Datasets and their budgets.")


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.add_typer(dataset_app, name="dataset", rich_help_panel="Stewards and admins")


def _budget(
    epsilon: Decimal | None, at_delta: Decimal | None, slack: Decimal | None, mu: Decimal | None, delta: Decimal | None
) -> dict[str, Any]:
    budget = _budget_or_none(epsilon, at_delta, slack, mu, delta)
    if budget is None:
        raise InvalidRequest("Give the budget as --epsilon and --at-delta, or as --mu (and --delta).", field="budget")
    return budget


def _budget_or_none(
    epsilon: Decimal | None,
    at_delta: Decimal | None,
    slack: Decimal | None,
    mu: Decimal | None,
    delta: Decimal | None,
    *,
    field: str = "budget",
) -> dict[str, Any] | None:
    by_epsilon, by_mu = given_fields(epsilon=epsilon, at_delta=at_delta, slack=slack), given_fields(mu=mu, delta=delta)
    if by_epsilon and by_mu:
        raise InvalidRequest(f"{field}: give it by its epsilon or by its mu, not by both.", field=field)
    return by_epsilon or by_mu or None


@dataset_app.command("create")
def dataset_create(
    name: str,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    privacy_unit: Annotated[
        str | None, typer.Option(help="What one neighbouring dataset lacks: record (the default), user, …")
    ] = None,
    adjacency: Annotated[str | None, typer.Option(help="add_or_remove_one (the default) or replace_one.")] = None,
    bound: Annotated[
        str | None, typer.Option(help="certified, a guarantee (the default), or clt, the published estimate.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="A public, nominal size.")] = None,
    title: str = "",
    description: str = "",
    partition: Annotated[
        list[str] | None,
        typer.Option(help="A part such that no privacy unit is in two of them, on your word; say it again for more."),
    ] = None,
    partitioned: Annotated[
        bool, typer.Option("--partitioned", help="It will have partitions, which `add-partitions` adds.")
    ] = False,
    derived_from: Annotated[
        list[str] | None,
        typer.Option(help="The dataset that this one is a copy, filter or join of; say it again for more."),
    ] = None,
    unit_preserving: Annotated[
        bool,
        typer.Option(
            "--unit-preserving",
            help="Your word that one privacy unit of --derived-from changes only its own rows here, and that the rows"
            " of one unit are clipped and sampled together.",
        ),
    ] = False,
    ceiling_epsilon: CeilingEpsilon = None,
    ceiling_at_delta: CeilingAtDelta = None,
    ceiling_mu: CeilingMu = None,
    ceiling_delta: CeilingDelta = None,
    as_json: Json = False,
) -> None:
    """Register a dataset with its budget; one that is derived from others needs none."""
    if derived_from and not unit_preserving:
        raise InvalidRequest(
            "derived_from: say --unit-preserving if one privacy unit of the original changes only its own rows here."
            " Where it does not, charging the original would not be sound.",
            field="derived_from",
        )
    budget_of = _budget_or_none if derived_from else _budget
    unsaid = {} if derived_from else {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "certified"}
    ceiling = _budget_or_none(ceiling_epsilon, ceiling_at_delta, None, ceiling_mu, ceiling_delta, field="ceiling")
    given = given_fields(
        privacy_unit=privacy_unit,
        adjacency=adjacency,
        bound=bound,
        budget=budget_of(epsilon, at_delta, slack, mu, delta),
        size=size,
        partitions=partition or ([] if partitioned else None),
        derived_from=[{"name": parent, "unit_preserving": True} for parent in derived_from or ()] or None,
        ceiling=ceiling,
    )
    with server() as ledger:
        made = ledger.register(name=name, title=title, description=description, **{**unsaid, **given})
    print_answer(made, as_json, show.datasets.dataset)


@dataset_app.command("list")
def dataset_list(as_json: Json = False) -> None:
    """List the datasets that your key sees."""
    with server() as ledger:
        print_answer(list(ledger.datasets()), as_json, show.datasets.datasets)


@dataset_app.command("show")
def dataset_show(name: str, as_json: Json = False) -> None:
    """Show a dataset with its balance."""
    with server() as ledger:
        print_answer(ledger.dataset(name), as_json, show.datasets.dataset)


@dataset_app.command("budget")
def dataset_budget(
    name: str,
    reason: Reason,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    as_json: Json = False,
) -> None:
    """Set a new limit, not below what is spent and held; a higher one may take a second steward."""
    with server() as ledger:
        changed = ledger.set_budget(name, budget=_budget(epsilon, at_delta, slack, mu, delta), reason=reason)
    print_answer(changed, as_json, unless_proposed(show.datasets.dataset))


@dataset_app.command("partitions")
def dataset_partitions(name: str, as_json: Json = False) -> None:
    """List a dataset's partitions, each with its balance."""
    with server() as ledger:
        print_answer(list(ledger.partitions(name)), as_json, show.datasets.partitions)


@dataset_app.command("add-partitions")
def dataset_add_partitions(
    name: str,
    partitions: Annotated[list[str], typer.Argument(metavar="PARTITION…", help="Their names.")],
    disjoint: Annotated[
        bool, typer.Option("--disjoint", help="Your word that no privacy unit is in two partitions; it is kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add partitions, each with the dataset's limit."""
    if not disjoint:
        raise InvalidRequest(
            "disjoint: say --disjoint if no privacy unit is in two of the partitions. Where one is, each would bring"
            " fresh budget for it.",
            field="disjoint",
        )
    with server() as ledger:
        made = ledger.add_partitions(name, partitions, disjoint=True)
    answer = made if "proposal" in made else made["items"]
    print_answer(answer, as_json, unless_proposed(show.datasets.partitions))


@dataset_app.command("project")
def dataset_project(
    name: str,
    project: str,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    reason: Annotated[str | None, typer.Option(help="Why; it is kept in the journal.")] = None,
    as_json: Json = False,
) -> None:
    """Set a project's share of a dataset: a limit on the runs that name it, beside the dataset's own."""
    budget = _budget(epsilon, at_delta, slack, mu, delta)
    with server() as ledger:
        answer = ledger.set_project(name, project, budget=budget, reason=reason)
    print_answer(answer, as_json, unless_proposed(show.datasets.project))


@dataset_app.command("fair-use")
def dataset_fair_use(
    name: str,
    reason: Reason,
    epsilon: Epsilon = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    mu: Mu = None,
    delta: Delta = None,
    runs_per_hour: Annotated[int | None, typer.Option(help="How many runs one principal may ask for.")] = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="No such limits any more.")] = False,
    as_json: Json = False,
) -> None:
    """Limit what one principal may hold at once, as a budget, and how often it may ask; what is not said goes."""
    held = _budget_or_none(epsilon, at_delta, slack, mu, delta)
    if unlimited == bool(held or runs_per_hour):
        raise InvalidRequest(
            "Give a budget for what one principal may hold (such as --mu), --runs-per-hour or both; or --unlimited.",
            field="held",
        )
    with server() as ledger:
        changed = ledger.set_fair_use(name, held=held, runs_per_hour=runs_per_hour, reason=reason)
    print_answer(changed, as_json, unless_proposed(show.datasets.dataset))


def _set_state(name: str, state: str, reason: str, as_json: bool) -> None:
    with server() as ledger:
        print_answer(ledger.change(name, state=state, reason=reason), as_json, unless_proposed(show.datasets.dataset))


@dataset_app.command("freeze")
def dataset_freeze(name: str, reason: Reason, as_json: Json = False) -> None:
    """Let no run be approved or started on it for now."""
    _set_state(name, "frozen", reason, as_json)


@dataset_app.command("thaw")
def dataset_thaw(name: str, reason: Reason, as_json: Json = False) -> None:
    """Undo `freeze`; of an overdrawn dataset that may take a second steward."""
    _set_state(name, "active", reason, as_json)


@dataset_app.command("retire")
def dataset_retire(name: str, reason: Reason, as_json: Json = False) -> None:
    """Let no run be approved or started on it, for ever."""
    _set_state(name, "retired", reason, as_json)
