"""Commands that need only exports and the accountant: recompute, registry. Heavy imports wait until one runs."""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, TextIO

import typer
from rich.table import Table
from rich.text import Text

from ledger.cli.show import console
from ledger.errors import InvalidRequest
from ledger.verifier import export

if TYPE_CHECKING:
    from ledger.core.amounts import Amount
    from ledger.core.datasets import AccountKey
    from ledger.recompute import Composition, Difference, LeastLimit, Opinion, Outcome, Recomputed

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
LINES_SHOWN_MAX: Final = 20


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (recompute, registry):
        app.command(rich_help_panel="Audit", epilog=f"Example: privacy-ledger {command.__name__} mnist.jsonl")(command)


# --- files -----------------------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a file. Each iteration starts at the first line."""

    def __init__(self, source: TextIO, advance: console.Advance) -> None:
        self._source, self._advance = source, advance

    def __iter__(self) -> Iterator[str]:
        self._source.seek(0)
        # Lines end at \n alone: str.splitlines would also split at characters that a text may contain.
        while line := self._source.readline(export.LINE_LENGTH_MAX + 1):
            self._advance()
            yield line


@contextmanager
def _opened(file: Path, advance: console.Advance) -> Iterator[_Lines]:
    """Open a file that can be read twice. Standard input is copied to a temporary file."""
    if str(file) == "-":
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="surrogateescape", newline="\n") as kept:
            while part := sys.stdin.read(1 << 20):
                kept.write(part)
            yield _Lines(kept, advance)
        return
    try:
        source = file.open(encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}", field="file") from error
    with source:
        yield _Lines(source, advance)


# --- commands --------------------------------------------------------------------------------------------------------


def recompute(
    files: Annotated[list[Path], typer.Argument(help="Exports, as `export` writes them; - for standard input.")],
    exact: Annotated[bool, typer.Option(help="Also compose the spent budget exactly, for information.")] = True,
    opinion: Annotated[bool, typer.Option(help="Also compare with dp-accounting, if it is installed.")] = True,
    as_json: Json = False,
) -> None:
    """Recompute every cost in exports, offline.

    Exit status 1 if a cost differs or a limit is exceeded, 2 if a file does not verify.
    """
    from ledger import recompute as recomputing

    results: list[Recomputed] = []
    for file in files:
        with (
            console.progress(f"Reading {file.name}", quiet=as_json) as advance,
            _opened(file, advance) as lines,
        ):
            results.append(recomputing.recompute(lines, with_exact=exact, with_opinion=opinion))
    if as_json:
        console.print_json({"exports": [facts(result) for result in results]})
    else:
        for result in results:
            show_result(result)
    if not all(result.is_as_recorded for result in results):
        sys.exit(1)


def registry(
    file: Annotated[Path, typer.Argument(help="An export, as `export` writes it; - for standard input.")],
    run: Annotated[str | None, typer.Option(help="The id of a run. Default: the whole dataset.")] = None,
    form: Annotated[Literal["yaml", "json"], typer.Option("--format", help="The format to write.")] = "yaml",
    layout: Annotated[
        Literal["implementation", "accounting"],
        typer.Option(help="The section for composition and post-processing; versions of the registry's schema differ."),
    ] = "implementation",
    output: Annotated[Path | None, typer.Option(help="The file to write. Default: standard output.")] = None,
) -> None:
    """Write a dataset or a run as a draft for the Differential Privacy Deployments Registry."""
    from ledger.recompute import registry as drafts

    with _opened(file, lambda: None) as lines:
        entry = drafts.registry_entry(lines, run=run, layout=layout)
    text = drafts.as_yaml(entry) if form == "yaml" else drafts.as_json(entry)
    if output is None:
        console.plain(text, end="")
    else:
        console.save(output, text)
    console.err.print(f"Complete or check these {len(entry.to_do)} fields:")
    for path, what in entry.to_do:
        console.err.print(f"    {path}: {what}")


# --- as JSON ---------------------------------------------------------------------------------------------------------


def facts(result: Recomputed) -> dict[str, Any]:
    """Return the result of a recomputation, for --json."""
    return {
        "as_recorded": result.is_as_recorded,
        "tenant": result.tenant,
        "dataset": result.dataset,
        "seq": result.seq,
        "hash": result.head.hex(),
        "accountant": result.accountant,
        "recorded_with": dict(result.recorded),
        "amounts": dict(result.counts),
        "differences": [_difference_facts(item) for item in result.differences],
        "unknown": [{"seq": item.seq, "run": item.run, "reason": item.reason} for item in result.unknown],
        "accounts": [_outcome_facts(item) for item in result.accounts],
        "least_limit": None if result.least_limit is None else _least_facts(result.least_limit),
        "exact": None if result.compositions is None else [_composition_facts(item) for item in result.compositions],
        "exact_left_out": result.compositions_left_out,
        "second_opinion": None if result.opinions is None else [_opinion_facts(item) for item in result.opinions],
        "second_opinion_left_out": result.opinions_left_out,
        "second_opinion_missing": result.is_opinion_missing,
    }


def _difference_facts(difference: Difference) -> dict[str, Any]:
    return {
        "seq": difference.seq,
        "run": difference.run,
        "what": difference.what,
        "refused": difference.is_refusal,
        "direction": difference.direction,
        "recorded": difference.recorded.facts(),
        "recomputed": difference.recomputed.facts(),
        "recorded_with": difference.accountant,
    }


def _outcome_facts(outcome: Outcome) -> dict[str, Any]:
    return {
        **outcome.key.facts(),
        "limit": outcome.limit.facts(),
        "recorded": {"spent": outcome.recorded_spent.facts(), "held": outcome.recorded_held.facts()},
        "recomputed": {"spent": outcome.spent.facts(), "held": outcome.held.facts()},
        "over_by": outcome.over_by.facts(),
        "most_over": outcome.most_over.facts(),
        "first_over": outcome.first_over,
        "recorded_over": outcome.recorded_over,
    }


def _least_facts(least: LeastLimit) -> dict[str, Any]:
    epsilons = [{"delta": delta, "epsilon": _finite(epsilon)} for delta, epsilon in least.epsilons]
    return {"amount": least.amount.facts(), "epsilon": epsilons}


def _composition_facts(composition: Composition) -> dict[str, Any]:
    def rows_of(epsilons: Any) -> list[dict[str, Any]]:
        rows = zip(composition.at_deltas, epsilons.gdp, epsilons.exact, strict=True)
        return [{"delta": at, "gdp": _finite(gdp), "exact": _finite(exact)} for at, gdp, exact in rows]

    return {
        "accounts": [key.facts() for key in composition.keys],
        "spent": rows_of(composition.settled),
        "spent_and_held": rows_of(composition.with_held),
        "envelopes": list(composition.envelopes),
        "is_estimate": not composition.is_bound,
    }


def _opinion_facts(opinion: Opinion) -> dict[str, Any]:
    return {
        "seq": opinion.seq,
        "runs": opinion.runs,
        "mechanism": json.loads(opinion.mechanism),
        "delta": opinion.at_delta,
        "ours": _finite(opinion.ours),
        "lower": _finite(opinion.lower),
        "upper": _finite(opinion.upper),
        "ratio": _finite(opinion.ratio),
        "is_estimate": opinion.is_estimate,
        "holds": opinion.holds,
    }


def _finite(value: float | None) -> float | None:
    """Return None for infinity and NaN, which JSON cannot write."""
    return value if value is not None and math.isfinite(value) else None


# --- for a person ----------------------------------------------------------------------------------------------------


def show_result(result: Recomputed) -> None:
    """Print the result of a recomputation, the most important part first."""
    good = result.is_as_recorded
    verdict = Text("as recorded", style="bold green") if good else Text("not as recorded", style="bold red")
    console.out.print(Text.assemble(verdict, f"  {console.in_one_line(f'{result.dataset} of {result.tenant}')}"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column()
    grid.add_row("entries", f"{result.seq:,}")
    grid.add_row("head", result.head.hex())
    recorded = ", ".join(f"{name} ({count:,})" for name, count in result.recorded.items())
    grid.add_row("accountant", f"{result.accountant}; recorded with {recorded or 'none'}")
    named = {"exact": "to the last digit", "within": "within the tolerance"}
    counted = [f"{count:,} {named.get(status, status)}" for status, count in result.counts.items() if count]
    grid.add_row("amounts", ", ".join(counted) or "none")
    if (least := result.least_limit) is not None:
        shown = ", ".join(f"{console.number(epsilon)} at delta {console.number(at)}" for at, epsilon in least.epsilons)
        grid.add_row("least limit", f"epsilon {shown}; an indication, see docs/explanation/residual.md")
    console.out.print(grid)
    _over(result.over, len(result.accounts))
    if result.differences:
        _differences(result)
    for unknown in result.unknown[:LINES_SHOWN_MAX]:
        console.out.print(f"entry {unknown.seq} cannot be recomputed: {unknown.reason}")
    if result.compositions is not None:
        _compositions(result.compositions, result.compositions_left_out)
    if result.opinions is not None:
        _opinions(result.opinions, result.opinions_left_out)
    if result.is_opinion_missing:
        console.out.print("No second opinion: dp-accounting is not installed. Install it: pip install dp-accounting")


def _table(*columns: str, right: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        whole = column == "run"
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=whole, min_width=36 if whole else None
        )
    return table


def _differences(result: Recomputed) -> None:
    numbers = ("seq", "recorded mu", "recomputed mu", "recorded delta", "recomputed delta")
    table = _table("", *numbers[:1], "run", "what", *numbers[1:], right=numbers)
    for difference in result.differences[:LINES_SHOWN_MAX]:
        style = "bold red" if difference.direction == "undercharged" else "yellow"
        what = f"{difference.what}{', refused' if difference.is_refusal else ''}"
        values = (
            _mu(difference.recorded),
            _mu(difference.recomputed),
            _delta(difference.recorded),
            _delta(difference.recomputed),
        )
        table.add_row(Text(difference.direction, style=style), f"{difference.seq:,}", difference.run, what, *values)
    console.out.print(table)
    more = result.counts["undercharged"] + result.counts["overcharged"] - len(result.differences[:LINES_SHOWN_MAX])
    if more > 0:
        console.out.print(f"and {more:,} more; --json has up to a thousand of each kind")


def _over(over: Sequence[Outcome], count: int) -> None:
    if not over:
        console.out.print(f"With these costs no limit is exceeded ({count:,} account{'s' * (count != 1)}).")
        return
    numbers = ("limit", "spent and held", "over at the end by", "at the worst by", "from entry", "as recorded")
    table = _table("account", *numbers, right=numbers)
    for outcome in over[:LINES_SHOWN_MAX]:
        total = outcome.spent + outcome.held
        table.add_row(
            account_name(outcome.key),
            _mu(outcome.limit),
            _mu(total),
            _pair(outcome.over_by) if outcome.is_over else "-",
            _pair(outcome.most_over),
            f"{outcome.first_over:,}",
            "kept" if outcome.recorded_over is None else f"over from {outcome.recorded_over:,}",
        )
    console.out.print(
        Text(f"With these costs {len(over):,} of {count:,} accounts exceed their limit.", style="bold red")
    )
    console.out.print(table)
    if len(over) > LINES_SHOWN_MAX:
        console.out.print(f"and {len(over) - LINES_SHOWN_MAX:,} more; --json has them")


def _compositions(compositions: Sequence[Composition], left_out: int) -> None:
    if not compositions:
        return
    numbers = ("at delta", "spent", "spent, exactly", "with held", "with held, exactly")
    table = _table("account", *numbers, "", right=numbers)
    for composition in compositions[:LINES_SHOWN_MAX]:
        for index, at in enumerate(composition.at_deltas):
            name = account_name(composition.keys[0]) + (
                f" and {len(composition.keys) - 1:,} alike" if len(composition.keys) > 1 else ""
            )
            notes = [f"{', '.join(composition.envelopes)} as charged"] if composition.envelopes else []
            notes += [] if composition.is_bound else ["an estimate"]
            columns = (
                composition.settled.gdp,
                composition.settled.exact,
                composition.with_held.gdp,
                composition.with_held.exact,
            )
            values = [_epsilon(column[index]) for column in columns]
            table.add_row("" if index else name, console.number(at), *values, "; ".join(notes))
    console.out.print(
        "Epsilon, for information only; it decides nothing. As the ledger adds costs up, and of these runs composed"
    )
    console.out.print("exactly, as if all of them had been fixed in advance.")
    console.out.print(table)
    more = len(compositions) - LINES_SHOWN_MAX
    if more > 0 or left_out:
        console.out.print(f"and {max(more, 0) + left_out:,} more; some of them were not computed")


def _opinions(opinions: Sequence[Opinion], left_out: int) -> None:
    numbers = ("seq", "runs", "at delta", "ours", "theirs from", "to", "ratio")
    table = _table("", *numbers, "mechanism", right=numbers)
    for opinion in opinions[:LINES_SHOWN_MAX]:
        verdict = Text("covers", style="green")
        if not opinion.holds:
            verdict = Text("estimate", style="yellow") if opinion.is_estimate else Text("too little", style="bold red")
        values = (opinion.at_delta, opinion.ours, opinion.lower, opinion.upper, opinion.ratio)
        table.add_row(
            verdict, f"{opinion.seq:,}", f"{opinion.runs:,}", *map(_epsilon, values), _short(opinion.mechanism)
        )
    if opinions:
        console.out.print(
            "Epsilon of single runs, compared with dp-accounting. The ledger's may be larger, never smaller."
        )
        console.out.print(table)
    more = len(opinions) - len(opinions[:LINES_SHOWN_MAX])
    if more:
        console.out.print(f"and {more:,} more; --json has them")
    if left_out:
        console.out.print(
            f"No second opinion on {left_out:,} kinds of runs: dp-accounting has no distribution for them."
        )


def _short(mechanism: str) -> str:
    members: Mapping[str, Any] = json.loads(mechanism)
    rest = ", ".join(f"{name} {value}" for name, value in members.items() if name != "type" and value is not None)
    text = f"{members['type']}: {rest}"
    return text if len(text) <= 70 else f"{text[:69]}…"


def account_name(key: AccountKey) -> str:
    """Return the name of an account, for a person."""
    return ", ".join(f"{name} {value}" for name, value in key.facts().items()) or "the dataset"


def _mu(amount: Amount) -> str:
    return console.number(math.sqrt(max(amount.mu_sq_pico, 0)) / 1e6)


def _delta(amount: Amount) -> str:
    return console.number(-math.expm1(-max(amount.delta_atto, 0) / 1e18))


def _pair(amount: Amount) -> str:
    """Return an amount as mu² and delta, which add up."""
    parts = [f"mu² {console.number(amount.mu_sq_pico / 1e12)}"] if amount.mu_sq_pico else []
    parts += [f"delta {_delta(amount)}"] if amount.delta_atto else []
    return ", ".join(parts) or "0"


def _epsilon(value: float | None) -> str:
    if value is None:
        return "?"
    return console.NO_EPSILON if math.isinf(value) else console.number(value)
