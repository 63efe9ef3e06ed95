"""What asks a server, found by LEDGER_URL and LEDGER_KEY: tenants, keys, what takes two people, datasets, runs, the
accountant, exports, reports."""

from __future__ import annotations

import functools
import inspect
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, get_args
from uuid import uuid4

import typer

from ledger.cli import show
from ledger.errors import BatchRefused, BudgetExceeded, InvalidRequest, Overrun

if TYPE_CHECKING:
    from ledger.client import Ledger


def _exact(text: str) -> Decimal:
    """A number as it was typed: every digit of it is sent."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not number.is_finite():
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


def _number(help_: str, *names: str) -> Any:
    return typer.Option(*names, parser=_exact, metavar="NUMBER", help=help_)


Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the journal.")]
Epsilon = Annotated[Decimal | None, _number("The budget's epsilon, at --at-delta.")]
AtDelta = Annotated[Decimal | None, _number("The delta at which epsilon is meant.")]
Slack = Annotated[Decimal | None, _number("The share of at-delta that is set aside for the deltas of runs.")]
Mu = Annotated[Decimal | None, _number("The budget in mu, instead of epsilon.")]
Delta = Annotated[Decimal | None, _number("The budget's delta, beside --mu.")]
Share = Annotated[Decimal | None, _number("The run's share of the delta budget, for a certificate.", "--delta")]
CeilingEpsilon = Annotated[Decimal | None, _number("A limit that no later budget may pass, as the budget is given.")]
CeilingAtDelta = Annotated[Decimal | None, _number("The delta at which --ceiling-epsilon is meant.")]
CeilingMu = Annotated[Decimal | None, _number("The ceiling in mu, instead of --ceiling-epsilon.")]
CeilingDelta = Annotated[Decimal | None, _number("The ceiling's delta, beside --ceiling-mu.")]
Uses = Annotated[
    list[str],
    typer.Argument(metavar="DATASET…", help="One or more: NAME, or NAME:PARTITION,PARTITION for some of its parts."),
]
ProjectName = Annotated[str | None, typer.Option(help="Charge this project's share too.")]
Segments = Annotated[
    int | None, typer.Option(help="In so many pieces, each restarted, so that it may stop after any and pay for those.")
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="As `key list` shows it.")]
ProposalId = Annotated[str, typer.Argument(metavar="ID", help="As `proposal list` shows it.")]

tenant_app = typer.Typer(no_args_is_help=True, help="Tenants; with the operator's key.")
key_app = typer.Typer(no_args_is_help=True, help="Keys of your tenant.")
policy_app = typer.Typer(no_args_is_help=True, help="Whether what loosens a budget takes a second steward.")
proposal_app = typer.Typer(no_args_is_help=True, help="What one steward proposed, and a second one answers.")
dataset_app = typer.Typer(no_args_is_help=True, help="Datasets and their budgets.")


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (request, batch, plan, start, settle, void, runs, evaluate, whoami):
        app.command(rich_help_panel="Runs")(command)
    groups = {
        "dataset": dataset_app,
        "proposal": proposal_app,
        "key": key_app,
        "policy": policy_app,
        "tenant": tenant_app,
    }
    for name, group in groups.items():
        app.add_typer(group, name=name, rich_help_panel="Stewards and admins")
    app.command(rich_help_panel="Audit")(export)
    app.command(rich_help_panel="Audit")(report)


@contextmanager
def server() -> Iterator[Ledger]:
    """The server at LEDGER_URL, with LEDGER_KEY."""
    from ledger.client import Ledger

    # A person is waiting, who can say it again; a training job has more patience.
    with Ledger(retries=2) as ledger:
        yield ledger


def _print(answer: Any, as_json: bool, shown: Callable[[Any], None]) -> None:
    if as_json:
        print(json.dumps(answer, ensure_ascii=False))
    else:
        shown(answer)


printed = _print
"""For the commands that stand in modules of their own."""


def _unless_proposed(shown: Callable[[Any], None]) -> Callable[[Any], None]:
    """Shows what was done; or, where the tenant's policy asks for a second steward, what was only proposed."""
    return lambda answer: show.proposed(answer["proposal"]) if "proposal" in answer else shown(answer)


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _object(text: str | None, name: str) -> dict[str, Any] | None:
    """A JSON object from the command line, or from a file as @FILE."""
    if text is None:
        return None
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from None
    return _parsed_object(source, name)


def _parsed(text: str, name: str) -> Any:
    """JSON whose numbers keep every digit that was typed."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from None


def _parsed_object(text: str, name: str) -> dict[str, Any]:
    value = _parsed(text, name)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: must be a JSON object", field=name)
    return value


def uses_of(datasets: list[str]) -> list[str | dict[str, Any]]:
    """The datasets of a run as they are typed: NAME, or NAME:PARTITION,PARTITION."""
    found: list[str | dict[str, Any]] = []
    for said in datasets:
        name, colon, partitions = said.partition(":")
        names = partitions.split(",")
        if colon and not all(names):
            raise InvalidRequest(f"datasets: {said!r} is not NAME:PARTITION,PARTITION", field="datasets")
        found.append({"name": name, "partitions": names} if colon else name)
    return found


# --- tenants and keys ------------------------------------------------------------------------------------------------


def whoami(as_json: Json = False) -> None:
    """Show whom the ledger takes you for: tenant, role, limits, and when the key or token ends."""
    with server() as ledger:
        _print(ledger.me(), as_json, show.me)


@tenant_app.command("create")
def tenant_create(name: str, as_json: Json = False) -> None:
    """Make a tenant and its first admin key."""
    with server() as ledger:
        made = ledger.make_tenant(name=name)
    _print(made, as_json, lambda made: show.secret(made["key"], what=f"The tenant {name} and its first admin key."))


@key_app.command("create")
def key_create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[str, typer.Option(help="admin, steward, requester or auditor.")],
    dataset: Annotated[list[str] | None, typer.Option(help="Limit it to this dataset; say it again for more.")] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="Of a requester: every run has to name it; say it again for more.")
    ] = None,
    expires_at: Annotated[str | None, typer.Option(help="Until when, such as 2030-01-01T00:00:00Z.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key."""
    with server() as ledger:
        limits = _given(datasets=dataset or None, projects=project or None, expires_at=expires_at)
        made = ledger.make_key(name=name, role=role, **limits)
    _print(made, as_json, lambda made: show.secret(made, what=f"A key for the role {role}."))


@key_app.command("list")
def key_list(as_json: Json = False) -> None:
    """List the keys, without their secrets."""
    with server() as ledger:
        _print(list(ledger.keys()), as_json, show.keys)


@key_app.command("rotate")
def key_rotate(
    key_id: KeyId,
    overlap: Annotated[
        str | None, typer.Option(help="How long the old key still works, such as PT1H; P1D if you say nothing.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new key for the same principal, with the same role and limits; the old one ends after the overlap."""
    with server() as ledger:
        made = ledger.rotate_key(key_id, overlap=overlap)
    what = f"A new key for the role {made['role']}, beside the old one for {overlap or 'P1D'}."
    _print(made, as_json, lambda made: show.secret(made, what=what))


@key_app.command("revoke")
def key_revoke(key_id: KeyId, as_json: Json = False) -> None:
    """Revoke a key."""
    with server() as ledger:
        ledger.revoke_key(key_id)
    _print({"id": key_id, "revoked": True}, as_json, lambda _: show.out.print(f"The key {key_id} is revoked."))


# --- what takes two people -------------------------------------------------------------------------------------------


@policy_app.command("show")
def policy_show(as_json: Json = False) -> None:
    """Show the tenant's policy."""
    with server() as ledger:
        _print(ledger.policy(), as_json, show.policy)


@policy_app.command("set")
def policy_set(
    second_steward: Annotated[
        bool,
        typer.Option(
            "--second-steward/--no-second-steward",
            help="Whether raising a budget, thawing an overdrawn dataset and voiding a started run take two people.",
        ),
    ],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Set the tenant's policy."""
    with server() as ledger:
        _print(ledger.set_policy(second_steward=second_steward, reason=reason), as_json, show.policy)


@proposal_app.command("list")
def proposal_list(
    state: Annotated[str | None, typer.Option(help="open, approved, refused or expired.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List what was proposed, and what became of it."""
    with server() as ledger:
        found = [item for _, item in zip(range(limit), ledger.proposals(state=state), strict=False)]
    _print(found, as_json, show.proposals)


@proposal_app.command("show")
def proposal_show(proposal_id: ProposalId, as_json: Json = False) -> None:
    """Show what is proposed, by whom, and until when it can be approved."""
    with server() as ledger:
        _print(ledger.proposal(proposal_id), as_json, show.proposal)


@proposal_app.command("approve")
def proposal_approve(proposal_id: ProposalId, as_json: Json = False) -> None:
    """Do what another steward proposed. Exit status 1 where that cannot be done any more."""
    with server() as ledger:
        done = ledger.approve(proposal_id)
    _print(done, as_json, show.dataset if "privacy_unit" in done else show.moved)


@proposal_app.command("refuse")
def proposal_refuse(proposal_id: ProposalId, reason: Reason, as_json: Json = False) -> None:
    """Refuse what another steward proposed, for good."""
    with server() as ledger:
        _print(ledger.refuse(proposal_id, reason=reason), as_json, show.proposal)


# --- datasets --------------------------------------------------------------------------------------------------------


def _budget(
    epsilon: Decimal | None, at_delta: Decimal | None, slack: Decimal | None, mu: Decimal | None, delta: Decimal | None
) -> dict[str, Any]:
    found = _budget_or_none(epsilon, at_delta, slack, mu, delta)
    if found is None:
        raise InvalidRequest("Give the budget as --epsilon and --at-delta, or as --mu (and --delta).", field="budget")
    return found


def _budget_or_none(
    epsilon: Decimal | None,
    at_delta: Decimal | None,
    slack: Decimal | None,
    mu: Decimal | None,
    delta: Decimal | None,
    *,
    field: str = "budget",
) -> dict[str, Any] | None:
    by_epsilon, by_mu = _given(epsilon=epsilon, at_delta=at_delta, slack=slack), _given(mu=mu, delta=delta)
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
    said = _given(
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
        made = ledger.register(name=name, title=title, description=description, **{**unsaid, **said})
    _print(made, as_json, show.dataset)


@dataset_app.command("list")
def dataset_list(as_json: Json = False) -> None:
    """List the datasets that your key sees."""
    with server() as ledger:
        _print(list(ledger.datasets()), as_json, show.datasets)


@dataset_app.command("show")
def dataset_show(name: str, as_json: Json = False) -> None:
    """Show a dataset with its balance."""
    with server() as ledger:
        _print(ledger.dataset(name), as_json, show.dataset)


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
    _print(changed, as_json, _unless_proposed(show.dataset))


@dataset_app.command("partitions")
def dataset_partitions(name: str, as_json: Json = False) -> None:
    """List a dataset's partitions, each with its balance."""
    with server() as ledger:
        _print(list(ledger.partitions(name)), as_json, show.partitions)


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
    _print(made["items"], as_json, show.partitions)


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
        _print(ledger.set_project(name, project, budget=budget, reason=reason), as_json, show.project)


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
    _print(changed, as_json, show.dataset)


def _set_state(name: str, state: str, reason: str, as_json: bool) -> None:
    with server() as ledger:
        _print(ledger.change(name, state=state, reason=reason), as_json, _unless_proposed(show.dataset))


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


# --- runs ------------------------------------------------------------------------------------------------------------


def _mechanism(
    type_: Annotated[
        str, typer.Option("--type", help="dpsgd, gaussian, laplace, pure_dp, approximate_dp or gdp.")
    ] = "dpsgd",
    noise_multiplier: Annotated[Decimal | None, _number("Noise over the clip norm, or over the sensitivity.")] = None,
    sampling: Annotated[str | None, typer.Option(help="poisson (the default), fixed_size or shuffle.")] = None,
    sample_rate: Annotated[Decimal | None, _number("The share of the data in a batch; with --steps.")] = None,
    steps: Annotated[int | None, typer.Option(help="How many steps.")] = None,
    dataset_size: Annotated[int | None, typer.Option(help="With --batch-size and --epochs, instead of a rate.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="With --dataset-size and --epochs.")] = None,
    epochs: Annotated[Decimal | None, _number("With --dataset-size and --batch-size.")] = None,
    count: Annotated[int | None, typer.Option(help="How many releases, where there are no steps.")] = None,
    epsilon: Annotated[Decimal | None, _number("Of pure_dp and approximate_dp.", "--mechanism-epsilon")] = None,
    delta: Annotated[Decimal | None, _number("Of approximate_dp and gdp.", "--mechanism-delta")] = None,
    mu: Annotated[Decimal | None, _number("Of gdp.", "--mechanism-mu")] = None,
    whole: Annotated[
        str | None, typer.Option("--mechanism", help="All of it as JSON, or @FILE; instead of the rest.")
    ] = None,
) -> dict[str, Any]:
    """The mechanism that these options declare."""
    fields = _given(
        noise_multiplier=noise_multiplier,
        sampling=sampling,
        sample_rate=sample_rate,
        steps=steps,
        dataset_size=dataset_size,
        batch_size=batch_size,
        epochs=epochs,
        count=count,
        epsilon=epsilon,
        delta=delta,
        mu=mu,
    )
    if whole is not None:
        if fields:
            raise InvalidRequest("Give --mechanism, or the options that it stands for, not both.", field="mechanism")
        return _object(whole, "mechanism") or {}
    if type_ == "dpsgd":
        fields.setdefault("sampling", "poisson")
    return {"type": type_, **fields}


def _takes_mechanism(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that declare a mechanism; it gets what they declare as `declared`."""
    options = inspect.signature(_mechanism, eval_str=True).parameters
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.name != "declared"]

    @functools.wraps(command)
    def with_options(**said: Any) -> None:
        declared = _mechanism(**{name: said.pop(name) for name in options})
        command(declared=declared, **said)

    required = [parameter for parameter in own if parameter.default is parameter.empty]
    optional = [parameter for parameter in own if parameter.default is not parameter.empty]
    together = [*required, *options.values(), *optional]
    with_options.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in together}
    return with_options


@_takes_mechanism
def request(
    datasets: Uses,
    declared: dict[str, Any],
    purpose: Annotated[str | None, typer.Option(help="What the run is for.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="Say it again for more.")] = None,
    share: Share = None,
    project: ProjectName = None,
    segments: Segments = None,
    valid_for: Annotated[str | None, typer.Option(help="How long the approval can be started, such as P1D.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--key", help="The same key and request get the same answer, for ever.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask for approval of a run, before it touches the data. Exit status 1 where it is refused."""
    with server() as ledger:
        try:
            answer = ledger.ask(
                datasets=uses_of(datasets),
                mechanism=declared,
                delta=share,
                segments=segments,
                project=project,
                purpose=purpose,
                labels=_labels(label),
                valid_for=valid_for,
                idempotency_key=idempotency_key,
            )
        except BudgetExceeded as error:
            if as_json:
                raise
            show.refused(error, suggest=_suggestion)
            sys.exit(1)
    _print(answer, as_json, show.approved)


@_takes_mechanism
def plan(
    datasets: Uses,
    declared: dict[str, Any],
    solve_for: Annotated[
        str | None,
        typer.Option(help="The option to solve for, such as noise-multiplier, steps or epochs; or runs, how many."),
    ] = None,
    share: Share = None,
    project: ProjectName = None,
    segments: Segments = None,
    as_json: Json = False,
) -> None:
    """Work out whether a run would fit now, and how much of it would. Exit status 1 where it does not fit."""
    # As the option is called: of `--mechanism-epsilon` too, the field is `epsilon`.
    field = None if solve_for is None else solve_for.removeprefix("mechanism-").replace("-", "_")
    with server() as ledger:
        answer = ledger.plan(
            datasets=uses_of(datasets),
            mechanism=declared,
            delta=share,
            segments=segments,
            project=project,
            solve_for=field,
        )
    _print(answer, as_json, functools.partial(show.planned, solve_for=field, suggest=_suggestion))
    if not answer["fits"]:
        sys.exit(1)


def batch(
    file: Annotated[
        str, typer.Argument(help="A JSON array of run requests, or one a line; - (or @-) is standard input.")
    ],
    atomic: Annotated[bool, typer.Option("--atomic", help="All of them are approved, or nothing is recorded.")] = False,
    as_json: Json = False,
) -> None:
    """Ask for up to 1000 runs at once, as POST /v1/runs has them. Exit status 1 where not every one is approved."""
    runs = _run_requests(file)
    with server() as ledger:
        try:
            results = ledger.ask_batch(runs, atomic=atomic)["results"]
        except BatchRefused as error:
            if as_json:
                raise
            show.batch(runs, error.facts.get("results", ()), is_refused=True)
            sys.exit(1)
    _print({"results": results}, as_json, lambda _: show.batch(runs, results, is_refused=False))
    if not all(result["status"] == 201 for result in results):
        sys.exit(1)


def _run_requests(file: str) -> list[dict[str, Any]]:
    """The runs of a batch, each with its idempotency_key if it has one."""
    name = file.removeprefix("@")
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"file: {error}", field="file") from None
    if text.lstrip().startswith("["):
        runs = _parsed(text, "file")
        if not all(isinstance(run, dict) for run in runs):
            raise InvalidRequest("file: every run must be a JSON object", field="file")
        found: list[dict[str, Any]] = runs
        return found
    # Lines end at \n alone: str.splitlines would also cut at characters that may stand in a text.
    lines = ((place, line) for place, line in enumerate(text.split("\n"), start=1) if line.strip())
    return [_parsed_object(line, f"file, line {place}") for place, line in lines]


def _labels(given: list[str] | None) -> dict[str, str] | None:
    labels = {}
    for label in given or ():
        name, equals, value = label.partition("=")
        if not equals:
            raise InvalidRequest(f"label: {label!r} is not NAME=VALUE", field="labels")
        labels[name] = value
    return labels or None


def _suggestion(field: str, value: Any) -> str:
    """The request to paste: the command that was typed, with one parameter as it would fit."""
    words = ["request", *(word for word in sys.argv[2:] if word != "--json")]
    name = {"epsilon": "mechanism-epsilon", "delta": "mechanism-delta", "mu": "mechanism-mu"}.get(field, field)
    option = f"--{name.replace('_', '-')}"
    kept: list[str] = []
    skip = False
    for word in words:
        # The parameter gets its new value; a key stands for the request that was refused, so it goes; and what was
        # solved for is no part of a request.
        if skip or word in (option, "--key", "--solve-for"):
            skip = not skip
        elif not word.startswith((f"{option}=", "--key=", "--solve-for=")):
            kept.append(word)
    if "--mechanism" in kept or any(word.startswith("--mechanism=") for word in kept):
        return f"in --mechanism: {field} {value}"
    return shlex.join(["privacy-ledger", *kept, option, format(Decimal(repr(value)), "f")])


def start(run: RunId, as_json: Json = False) -> None:
    """Say that a run now touches the data."""
    with server() as ledger:
        _print(ledger.start(run), as_json, show.moved)


def settle(
    run: RunId,
    steps: Annotated[int | None, typer.Option(help="The steps that were executed; all, if you say nothing.")] = None,
    stop: Annotated[
        str | None,
        typer.Option(
            help="planned; or why it stopped earlier: data_dependent (the default), or data_independent, your word that"
            " neither the data nor any output had a say in it."
        ),
    ] = None,
    evidence: Annotated[str | None, typer.Option(help="A JSON object to keep, or @FILE.")] = None,
    as_json: Json = False,
) -> None:
    """Charge a started run for what it executed. Exit status 1 where that was more than fits; it is charged anyway."""
    said = _given(steps=steps, stop=stop, evidence=_object(evidence, "evidence"))
    with server() as ledger:
        try:
            answer = ledger.settle(run, **said)
        except Overrun as error:
            if as_json:
                raise
            show.overran(error)
            sys.exit(1)
    _print(answer, as_json, show.moved)


def void(run: RunId, reason: Reason, as_json: Json = False) -> None:
    """Say that no output of a run was ever seen, so that nothing is charged; once started, it may take a second
    steward."""
    with server() as ledger:
        _print(ledger.void(run, reason=reason), as_json, _unless_proposed(show.moved))


def runs(
    dataset: Annotated[str | None, typer.Option(help="Of this dataset alone.")] = None,
    state: Annotated[str | None, typer.Option(help="held, started, settled, voided or refused.")] = None,
    project: Annotated[str | None, typer.Option(help="Of this project alone.")] = None,
    overdue: Annotated[bool, typer.Option("--overdue", help="Not started or settled in time.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List runs."""
    filters = _given(dataset=dataset, state=state, project=project, overdue=overdue or None)
    with server() as ledger:
        found = [item for _, item in zip(range(limit), ledger.runs(**filters), strict=False)]
    _print(found, as_json, show.runs)


@_takes_mechanism
def evaluate(
    declared: dict[str, Any],
    bound: Annotated[str, typer.Option(help="certified, a guarantee, or clt, the published estimate.")] = "certified",
    adjacency: Annotated[str, typer.Option(help="add_or_remove_one or replace_one.")] = "add_or_remove_one",
    share: Share = None,
    at_delta: Annotated[
        list[Decimal] | None, _number("Show epsilon at this delta; say it again for more.", "--at-delta")
    ] = None,
    as_json: Json = False,
) -> None:
    """Work out what a mechanism would cost. Nothing is recorded."""
    with server() as ledger:
        answer = ledger.evaluate(
            mechanism=declared,
            bound=bound,
            adjacency=adjacency,
            **_given(delta=share, report_deltas=at_delta or None),
        )
    _print(answer, as_json, show.evaluated)


# --- audit -----------------------------------------------------------------------------------------------------------


def export(
    output: Annotated[Path, typer.Option(help="The file to write; - for standard output.")],
    dataset: Annotated[str | None, typer.Argument(help="The dataset's name.")] = None,
    tenant: Annotated[
        bool, typer.Option("--tenant", help="The tenant's own journal, of keys, roles and the policy.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write a dataset's whole journal, or the tenant's own, to a file, for `verify`."""
    if tenant == (dataset is not None):
        raise InvalidRequest("Name a dataset, or say --tenant for the tenant's own journal.", field="dataset")
    if str(output) == "-":
        _export(dataset, sys.stdout.buffer)
        return
    size = _written(output, force, functools.partial(_export, dataset))
    told = f"{output}: {size:,} bytes. Check it: privacy-ledger verify {shlex.quote(str(output))}"
    facts = {"dataset": dataset, "file": str(output), "bytes": size}
    _print(facts, as_json, lambda _: show.err.print(told, markup=False))


def _written(output: Path, force: bool, write: Callable[[BinaryIO], object]) -> int:
    """Writes a file and returns its size. Raises InvalidRequest."""
    if output.exists() and not force:
        raise InvalidRequest(f"{output} is there already; --force writes over it.", field="output")
    # Under another name until it is whole: half of it must not be taken for all.
    partial = output.with_name(f".{output.name}.{uuid4().hex[:8]}.part")
    try:
        with partial.open("xb") as file:
            write(file)
        partial.replace(output)
    except OSError as error:
        raise InvalidRequest(f"{output}: {error.strerror}", field="output") from error
    finally:
        partial.unlink(missing_ok=True)
    return output.stat().st_size


def _export(dataset: str | None, file: BinaryIO) -> None:
    with server() as ledger:
        if dataset is None:
            ledger.export_tenant(file)
        else:
            ledger.export(dataset, file)


ReportFormat = Literal["json", "html", "pdf", "csv"]


def report(
    dataset: Annotated[str | None, typer.Argument(help="The dataset's name.")] = None,
    project: Annotated[str | None, typer.Option(help="A project, over all datasets in which it has part.")] = None,
    tenant: Annotated[bool, typer.Option("--tenant", help="All datasets, and the tenant's own journal.")] = False,
    output: Annotated[Path, typer.Option(help="The file to write; - for standard output.")] = Path("-"),
    form: Annotated[
        ReportFormat | None, typer.Option("--format", help="By the file's name when left out, else json.")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="Beginning of the period.")] = None,
    until: Annotated[str | None, typer.Option("--to", metavar="TIME", help="End of the period, not in it.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a report, and ask nobody.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Write the audit report of a dataset, of a project or of the tenant: for a regulator, or for a script."""
    if schema:
        print(resources.files("ledger").joinpath("report/schema.json").read_text(encoding="utf-8"), end="")
        return
    if [dataset is not None, project is not None, tenant].count(True) != 1:
        raise InvalidRequest("Name a dataset, or say --project NAME, or --tenant.", field="dataset")
    chosen = form or _format_of(output)
    write = functools.partial(_report, dataset, project, chosen, since, until)
    if str(output) == "-":
        if chosen == "pdf" and sys.stdout.isatty():
            raise InvalidRequest("A PDF is not for a terminal; say --output FILE.", field="output")
        write(sys.stdout.buffer)
        return
    size = _written(output, force, write)
    facts = {"dataset": dataset, "project": project, "format": chosen, "file": str(output), "bytes": size}
    _print(facts, as_json, lambda _: show.err.print(f"{output}: {size:,} bytes.", markup=False))


def _format_of(output: Path) -> ReportFormat:
    named = output.suffix.lower().removeprefix(".")
    found: tuple[ReportFormat, ...] = get_args(ReportFormat)
    return next((form for form in found if form == named), "json")


def _report(
    dataset: str | None, project: str | None, form: str, since: str | None, until: str | None, file: BinaryIO
) -> None:
    with server() as ledger:
        ledger.report(file, dataset=dataset, project=project, format=form, since=since, until=until)
