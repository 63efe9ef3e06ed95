"""Commands about runs: batch, plan, start, settle, void, runs, evaluate."""

from __future__ import annotations

import functools
import shlex
import sys
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ledger.cli import completion, show
from ledger.cli.correcting import correct
from ledger.cli.mechanism import started, takes_mechanism
from ledger.cli.options import (
    AtDelta,
    Json,
    Models,
    ProjectName,
    Reason,
    RunId,
    Segments,
    Share,
    SizeDiffers,
    Slack,
    budget_or_none,
    given_fields,
    number_option,
    optional_object,
    parse_percent,
    parse_restarts,
    parsed,
    parsed_object,
    uses_of,
)
from ledger.cli.requesting import option_words, request, start_once, suggestion
from ledger.cli.server_call import first, print_answer, server, unless_proposed
from ledger.cli.show import console
from ledger.cli.voiding import void_all
from ledger.client.starts import is_over
from ledger.errors import BatchRefused, InvalidRequest, Overrun

_TRUE: Final = '{"type":"gaussian","noise_multiplier":4}'


@takes_mechanism
def plan(
    declared: dict[str, Any],
    datasets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATASET…",
            help="One or more datasets, as for `request`; none with --runs.",
            autocompletion=completion.dataset,
        ),
    ] = None,
    solve_for: Annotated[
        str | None,
        typer.Option(
            help="The option to solve for, such as noise-multiplier, steps or epochs, which can be left out then; or"
            " `runs`, for how many fit."
        ),
    ] = None,
    share: Share = None,
    project: ProjectName = None,
    segments: Segments = None,
    runs_file: Annotated[
        str | None,
        typer.Option("--runs", help="Plan up to 1000 runs at once, from a file as for `batch`; - for standard input."),
    ] = None,
    as_many_as_fit: Annotated[
        bool, typer.Option("--as-many-as-fit", help="With --runs: plan them as `batch --as-many-as-fit` approves them.")
    ] = False,
    size_differs: SizeDiffers = None,
    budget_epsilon: Annotated[
        Decimal | None, number_option("Instead of a dataset: the epsilon of a new budget, at --at-delta.", "--epsilon")
    ] = None,
    at_delta: AtDelta = None,
    slack: Slack = None,
    budget_mu: Annotated[Decimal | None, number_option("Instead of a dataset: the mu of a new budget.", "--mu")] = None,
    budget_delta: Annotated[Decimal | None, number_option("The delta of that budget, with --mu.")] = None,
    bound: Annotated[str | None, typer.Option(help="For a new budget: certified (the default) or clt.")] = None,
    adjacency: Annotated[
        str | None,
        typer.Option(help="For a new budget: add_or_remove_one (the default), replace_one or zero_out."),
    ] = None,
    at_most: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="The most that the run may take of what is left now, such as 10%."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check whether a run would fit now, and what would fit. Nothing is recorded. Exit status 1 if it does not fit."""
    if runs_file is not None:
        _plan_runs(runs_file, as_many_as_fit, as_json)
        return
    budget = budget_or_none(budget_epsilon, at_delta, slack, budget_mu, budget_delta)
    if not datasets and budget is None:
        raise InvalidRequest(
            "datasets: name a dataset; or give a budget with --epsilon and --at-delta, or a file of runs with --runs",
            field="datasets",
        )
    # People type the option's name. The field of `--mechanism-epsilon` is `epsilon`.
    field = None if solve_for is None else solve_for.removeprefix("mechanism-").replace("-", "_")
    begun = started(declared, field or "")
    with server() as ledger:
        ask = functools.partial(
            ledger.plan,
            datasets=uses_of(datasets) if datasets else None,
            delta=share,
            segments=segments,
            project=project,
            size_differs=size_differs,
            budget=budget,
            bound=bound,
            adjacency=adjacency,
            at_most_percent=parse_percent(at_most, "at_most"),
        )
        answer = ask(mechanism=begun or declared, solve_for=field)
        if begun is not None and field is not None and answer["solution"] is not None:
            # Nobody asked about the value at which the search began: show the plan of the one that was found.
            declared = {**declared, field: Decimal(repr(answer["solution"]["value"]))}
            answer = {**ask(mechanism=declared), "solution": answer["solution"]}
    # Nothing can be asked for on a budget that no dataset has, so that only the option is suggested.
    suggest = suggestion if datasets else lambda name, value: shlex.join(option_words(name, value))
    if begun is not None and field is not None and answer["solution"] is None:
        shown = functools.partial(show.planned.unsolvable, solve_for=field)
    else:
        shown = functools.partial(show.planned.one, solve_for=field, suggest=suggest, declared=declared)
    print_answer(answer, as_json, shown)
    if not answer["fits"]:
        sys.exit(1)


def _plan_runs(file: str, as_many_as_fit: bool, as_json: bool) -> None:
    """Plan the runs in a file, one after another or as a batch. Exit status 1 if one does not fit."""
    asked = [{name: value for name, value in run.items() if name != "idempotency_key"} for run in _run_requests(file)]
    with server() as ledger:
        answer = ledger.plan_runs(asked, as_many_as_fit=as_many_as_fit)
    print_answer(answer, as_json, functools.partial(show.planned.runs, asked))
    if answer["fitting"] < len(asked):
        sys.exit(1)


def batch(
    file: Annotated[
        str, typer.Argument(help="A file with a JSON array of run requests, or one per line; - for standard input.")
    ],
    atomic: Annotated[bool, typer.Option("--atomic", help="Approve all of them, or record nothing.")] = False,
    as_many_as_fit: Annotated[
        bool,
        typer.Option("--as-many-as-fit", help="Approve as many as fit together, in this order; record nothing else."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask for approval of up to 1000 runs at once. Each is a body of POST /v1/runs. Exit status 1 if any is refused."""
    runs = _run_requests(file)
    with server() as ledger:
        try:
            answer = ledger.ask_batch(runs, atomic=atomic, as_many_as_fit=as_many_as_fit)
        except BatchRefused as error:
            if as_json:
                raise
            results = console.in_one_line(error.facts.get("results", ()))
            show.many.batch(runs, results, is_refused=True, fitting=error.facts.get("fitting"))
            sys.exit(1)
    print_answer(answer, as_json, lambda answer: show.many.batch(runs, answer["results"], is_refused=False))
    if answer["approved"] < len(runs):
        sys.exit(1)


def _run_requests(file: str) -> list[dict[str, Any]]:
    """Return the runs of a batch, each with its idempotency_key if it has one."""
    name = file.removeprefix("@")
    try:
        text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"file: {error}", field="file") from None
    if text.lstrip().startswith("["):
        runs = parsed(text, "file")
        if not all(isinstance(run, dict) for run in runs):
            raise InvalidRequest("file: every run must be a JSON object", field="file")
        requests: list[dict[str, Any]] = runs
        return requests
    # Lines end at \n alone: str.splitlines would also split at characters that a text may contain.
    lines = ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())
    return [parsed_object(line, f"file, line {number}") for number, line in lines]


def start(run: RunId, as_json: Json = False) -> None:
    """Record that a run starts to use the data. Exit status 1 if another process started it: do not train. Typed again
    after an answer that was lost, it gets the same answer."""
    with server() as ledger:
        answer = start_once(ledger, ledger.run_info(run)["id"])
        if is_over(answer):
            renewed = ledger.receipt(run)
            answer |= {name: renewed[name] for name in ("receipt", "begin_by")}
        print_answer(answer, as_json, show.runs.started)


def settle(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="The run's id.", autocompletion=completion.run)
    ] = None,
    pending: Annotated[
        bool,
        typer.Option(
            "--pending", help="Instead of one run: send the settlements that this machine kept without an answer."
        ),
    ] = False,
    steps: Annotated[int | None, typer.Option(help="How many steps were executed. Default: all.")] = None,
    stop: Annotated[
        str | None,
        typer.Option(
            help="planned; or why it stopped earlier: data_dependent (the default), or data_independent, which affirms"
            " that neither the data nor any output influenced it."
        ),
    ] = None,
    restarts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FROM-TO[:new]",
            help="Steps that were repeated after a restart, such as 401-500; add :new if their batches were drawn"
            " again. Or JSON; [] if no step was repeated. Can be repeated, in the order in which they happened.",
        ),
    ] = None,
    model: Models = None,
    evidence: Annotated[str | None, typer.Option(help="A JSON object that the journal keeps, or @FILE.")] = None,
    as_json: Json = False,
) -> None:
    """Charge a started run for what it executed. Exit status 1 if that exceeds the budget; it is charged anyway."""
    stated = optional_object(evidence, "evidence")
    executed = given_fields(
        steps=steps, stop=stop, restarts=parse_restarts(restarts), models=model or None, evidence=stated
    )
    if pending or run is None:
        if not pending or run is not None or executed:
            raise InvalidRequest("Name one run; or give --pending, with nothing else.", field="run")
        _settle_pending(as_json=as_json)
        return
    with server() as ledger:
        try:
            answer = ledger.settle(run, **executed)
        except Overrun as error:
            if as_json:
                raise
            show.runs.overran(error)
            sys.exit(1)
    print_answer(answer, as_json, show.runs.moved)


def _settle_pending(*, as_json: bool) -> None:
    """Send what waits, and print the outcomes. Exit status 1 if some still waits."""
    with server() as ledger:
        answer = ledger.settle_pending()
    print_answer(answer, as_json, show.many.sent_later)
    if answer["waiting"]:
        sys.exit(1)


def confirm(run: RunId, reason: Reason, as_json: Json = False) -> None:
    """Confirm steps that a run reported and no budget covers. They are charged as an overrun."""
    with server() as ledger:
        print_answer(ledger.confirm(run, reason=reason), as_json, show.runs.moved)


def void(
    reason: Reason,
    run: Annotated[str | None, typer.Argument(metavar="RUN", help="The run's id. Or name the runs by options.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=VALUE]", help="Void all runs with this label. Can be repeated: each must be there."
        ),
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Void all runs of this dataset.")] = None,
    project: Annotated[str | None, typer.Option(help="Void all runs of this project.")] = None,
    person: Annotated[str | None, typer.Option(help="Void all runs of this principal: its name or id.")] = None,
    state: Annotated[str, typer.Option(help="With such an option: only runs in this state, held or started.")] = "held",
    yes: Annotated[bool, typer.Option("--yes", help="With such an option: do not ask.")] = False,
    data_independent: Annotated[
        bool,
        typer.Option(
            "--data-independent",
            help="State that neither the data nor any output, of this or of another run, decided this, nor when the"
            " run began, and that it will not be resumed. A crash alone does not state that.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Cancel a run and give its cost back, if nobody has seen any output of it.

    Voiding a started run may need a second steward. Where later runs rest on its cost, that is kept, unless
    --data-independent is stated.

    With --label, --dataset, --project or --person, it shows the runs that it would void, and asks. Exit status 1 if one
    of them could not be voided.
    """
    filters = given_fields(label=label or None, dataset=dataset, project=project, person=person)
    if (run is None) == (not filters):
        raise InvalidRequest(
            "Name one run, or the runs to void by --label, --dataset, --project or --person.", field="run"
        )
    if run is None:
        void_all({**filters, "state": state}, reason, yes=yes, data_independent=data_independent, as_json=as_json)
        return
    with server() as ledger:
        answer = ledger.void(run, reason=reason, data_independent=data_independent)
    print_answer(answer, as_json, unless_proposed(show.runs.moved))


def runs(
    dataset: Annotated[
        str | None, typer.Option(help="Only of this dataset.", autocompletion=completion.dataset)
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            help="Only in this state: held, started, settled, voided, refused, waiting (for a steward) or expired.",
            autocompletion=completion.run_state,
        ),
    ] = None,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    overdue: Annotated[
        bool, typer.Option("--overdue", help="Only those that were not started or settled in time.")
    ] = False,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=VALUE]", help="Only with this label. Can be repeated: each must be there."),
    ] = None,
    purpose: Annotated[str | None, typer.Option(help="Only with this text in the purpose.")] = None,
    person: Annotated[str | None, typer.Option(help="Only asked for by this principal: its name or id.")] = None,
    mechanism: Annotated[str | None, typer.Option(help="Only with this type of mechanism, such as dpsgd.")] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only asked for since: 2026-10-01, yesterday, 12h, 30d or a time."),
    ] = None,
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only asked for before; that moment is no longer in it.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Your own run with this idempotency key; without other filters.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List runs, with what each was charged."""
    filters = given_fields(
        dataset=dataset,
        state=state,
        project=project,
        overdue=overdue or None,
        label=label or None,
        purpose=purpose,
        person=person,
        mechanism=mechanism,
        since=since,
        until=until,
        key=key,
    )
    with server() as ledger:
        newest = first(ledger.runs(**filters), limit)
    print_answer(newest, as_json, show.runs.runs)


run_app = typer.Typer(no_args_is_help=True, help="One run.")


@run_app.command("show", epilog="Example: privacy-ledger run show 018f3c6e")
def run_show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, or its first 8 characters or more.")],
    as_json: Json = False,
) -> None:
    """Show a run: what was declared, decided and charged, by whom and when; and why, if it was refused."""
    with server() as ledger:
        print_answer(ledger.run_info(run), as_json, show.run.shown)


@takes_mechanism
def evaluate(
    declared: dict[str, Any],
    bound: Annotated[str, typer.Option(help="certified: a guarantee; clt: the published estimate.")] = "certified",
    adjacency: Annotated[str, typer.Option(help="add_or_remove_one, replace_one or zero_out.")] = "add_or_remove_one",
    share: Share = None,
    at_delta: Annotated[
        list[Decimal] | None, number_option("Show epsilon at this delta. Can be repeated.", "--at-delta")
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute what a mechanism would cost. Nothing is recorded."""
    with server() as ledger:
        answer = ledger.evaluate(
            mechanism=declared,
            bound=bound,
            adjacency=adjacency,
            **given_fields(delta=share, report_deltas=at_delta or None),
        )
    print_answer(answer, as_json, functools.partial(show.runs.evaluated, declared=declared))


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    run = "018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77"
    for command, example in (
        (request, "request mnist --noise-multiplier 1.1 --sample-rate 0.01 --steps 2000"),
        (batch, "batch trials.jsonl --as-many-as-fit"),
        (plan, "plan mnist --noise-multiplier 1.1 --sample-rate 0.01 --steps 2000 --solve-for steps --at-most 10%"),
        (start, f"start {run}"),
        (settle, f"settle {run} --steps 1200"),
        (confirm, f"confirm {run} --reason 'the logs show these steps'"),
        (correct, f"correct {run} --mechanism '{_TRUE}' --not-decided-by-output --reason 'a typing error'"),
        (void, f"void {run} --reason 'the job never began'"),
        (runs, "runs --dataset mnist --state started --overdue"),
        (evaluate, "evaluate --noise-multiplier 1.1 --sample-rate 0.01 --steps 2000 --at-delta 1e-5"),
    ):
        app.command(rich_help_panel="Runs", epilog=f"Example: privacy-ledger {example}")(command)
    app.add_typer(run_app, name="run", rich_help_panel="Runs")
