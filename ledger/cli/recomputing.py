"""What works with exports alone and needs the accountant: recompute, registry. It is imported when a command runs."""

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
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ledger.cli.show import console
from ledger.errors import InvalidRequest
from ledger.verifier import export

if TYPE_CHECKING:
    from ledger.core.amounts import Amount
    from ledger.core.datasets import AccountKey
    from ledger.recompute import Composition, Difference, Opinion, Outcome, Recomputed

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
LINES_SHOWN_MAX: Final = 20


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (recompute, registry):
        app.command(rich_help_panel="Audit")(command)


# --- files -----------------------------------------------------------------------------------------------------------


class _Lines:
    """The lines of a file, from the beginning each time."""

    def __init__(self, source: TextIO, advance: console.Advance) -> None:
        self._source, self._advance = source, advance

    def __iter__(self) -> Iterator[str]:
        self._source.seek(0)
        # Lines end at \n alone: str.splitlines would also cut at characters that may stand in a text.
        while line := self._source.readline(export.LINE_LENGTH_MAX + 1):
            self._advance()
            yield line


@contextmanager
def _opened(file: Path, advance: console.Advance) -> Iterator[_Lines]:
    """A file that can be read twice; what comes in on standard input is kept in a temporary one."""
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
    exact: Annotated[bool, typer.Option(help="Also compose what was spent exactly, for information.")] = True,
    opinion: Annotated[bool, typer.Option(help="Also ask dp-accounting, where it is installed.")] = True,
    as_json: Json = False,
) -> None:
    """Work every cost of exports out again, offline. Exit status 1 where one differs or a budget is passed, 2 where a
    file does not hold."""
    from ledger import recompute as recomputing

    all_found: list[Recomputed] = []
    for file in files:
        with (
            console.progress(f"Reading {file.name}", quiet=as_json) as advance,
            _opened(file, advance) as lines,
        ):
            all_found.append(recomputing.recompute(lines, with_exact=exact, with_opinion=opinion))
    if as_json:
        print(json.dumps({"exports": [facts(found) for found in all_found]}, ensure_ascii=False))
    else:
        for found in all_found:
            shown(found)
    if not all(found.is_as_recorded for found in all_found):
        sys.exit(1)


def registry(
    file: Annotated[Path, typer.Argument(help="An export, as `export` writes it; - for standard input.")],
    run: Annotated[str | None, typer.Option(help="The id of a run; left out, the whole dataset.")] = None,
    form: Annotated[Literal["yaml", "json"], typer.Option("--format", help="What to write.")] = "yaml",
    layout: Annotated[
        Literal["implementation", "accounting"],
        typer.Option(help="Which section has composition and post-processing; versions of the schema differ."),
    ] = "implementation",
    output: Annotated[Path | None, typer.Option(help="A file to write; left out, standard output.")] = None,
) -> None:
    """Write a dataset or a run as a draft for the Differential Privacy Deployments Registry."""
    from ledger.recompute import registry as drafts

    with _opened(file, lambda: None) as lines:
        entry = drafts.registry_entry(lines, run=run, layout=layout)
    text = drafts.as_yaml(entry) if form == "yaml" else drafts.as_json(entry)
    if output is None:
        print(text, end="")
    else:
        console.save(output, text)
    console.err.print(f"To fill in or to check, {len(entry.to_do)} in all:")
    for path, what in entry.to_do:
        console.err.print(f"    {path}: {what}", markup=False)


# --- as JSON ---------------------------------------------------------------------------------------------------------


def facts(found: Recomputed) -> dict[str, Any]:
    """What recomputation found, for scripts."""
    return {
        "as_recorded": found.is_as_recorded,
        "tenant": found.tenant,
        "dataset": found.dataset,
        "seq": found.seq,
        "hash": found.head.hex(),
        "accountant": found.accountant,
        "recorded_with": dict(found.recorded),
        "amounts": dict(found.counts),
        "differences": [_difference_facts(each) for each in found.differences],
        "unknown": [{"seq": each.seq, "run": each.run, "reason": each.reason} for each in found.unknown],
        "accounts": [_outcome_facts(each) for each in found.accounts],
        "exact": None if found.compositions is None else [_composition_facts(each) for each in found.compositions],
        "exact_left_out": found.compositions_left_out,
        "second_opinion": None if found.opinions is None else [_opinion_facts(each) for each in found.opinions],
        "second_opinion_left_out": found.opinions_left_out,
        "second_opinion_missing": found.is_opinion_missing,
    }


def _difference_facts(each: Difference) -> dict[str, Any]:
    return {
        "seq": each.seq,
        "run": each.run,
        "what": each.what,
        "refused": each.is_refusal,
        "direction": each.direction,
        "recorded": each.recorded.facts(),
        "recomputed": each.recomputed.facts(),
        "recorded_with": each.accountant,
    }


def _outcome_facts(each: Outcome) -> dict[str, Any]:
    return {
        **each.key.facts(),
        "limit": each.limit.facts(),
        "recorded": {"spent": each.recorded_spent.facts(), "held": each.recorded_held.facts()},
        "recomputed": {"spent": each.spent.facts(), "held": each.held.facts()},
        "over_by": each.over_by.facts(),
        "most_over": each.most_over.facts(),
        "first_over": each.first_over,
        "recorded_over": each.recorded_over,
    }


def _composition_facts(each: Composition) -> dict[str, Any]:
    def of(epsilons: Any) -> list[dict[str, Any]]:
        rows = zip(each.at_deltas, epsilons.gdp, epsilons.exact, strict=True)
        return [{"delta": at, "gdp": _finite(gdp), "exact": _finite(exact)} for at, gdp, exact in rows]

    return {
        "accounts": [key.facts() for key in each.keys],
        "spent": of(each.settled),
        "spent_and_held": of(each.with_held),
        "envelopes": list(each.envelopes),
        "is_estimate": not each.is_bound,
    }


def _opinion_facts(each: Opinion) -> dict[str, Any]:
    return {
        "seq": each.seq,
        "runs": each.runs,
        "mechanism": json.loads(each.mechanism),
        "delta": each.at_delta,
        "ours": _finite(each.ours),
        "lower": _finite(each.lower),
        "upper": _finite(each.upper),
        "ratio": _finite(each.ratio),
        "is_estimate": each.is_estimate,
        "holds": each.holds,
    }


def _finite(value: float | None) -> float | None:
    """None where there is no number, which JSON would not know how to write."""
    return value if value is not None and math.isfinite(value) else None


# --- for a person ----------------------------------------------------------------------------------------------------


def shown(found: Recomputed) -> None:
    """What recomputation found, in the order in which it matters."""
    good = found.is_as_recorded
    verdict = Text("as recorded", style="bold green") if good else Text("not as recorded", style="bold red")
    console.out.print(Text.assemble(verdict, f"  {found.dataset} of {found.tenant}"))
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column()
    grid.add_row("entries", f"{found.seq:,}")
    grid.add_row("head", found.head.hex())
    recorded = ", ".join(f"{name} ({count:,})" for name, count in found.recorded.items())
    grid.add_row("accountant", f"{found.accountant}; recorded with {recorded or 'none'}")
    named = {"exact": "to the last digit", "within": "within the tolerance"}
    counted = [f"{count:,} {named.get(status, status)}" for status, count in found.counts.items() if count]
    grid.add_row("amounts", ", ".join(counted) or "none")
    console.out.print(grid)
    _over(found.over, len(found.accounts))
    if found.differences:
        _differences(found)
    for each in found.unknown[:LINES_SHOWN_MAX]:
        console.out.print(f"entry {each.seq} cannot be worked out: {each.reason}", markup=False)
    if found.compositions is not None:
        _compositions(found.compositions, found.compositions_left_out)
    if found.opinions is not None:
        _opinions(found.opinions, found.opinions_left_out)
    if found.is_opinion_missing:
        console.out.print("No second opinion: dp-accounting is not installed (pip install dp-accounting).")


def _table(*columns: str, right: Sequence[str]) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        whole = column == "run"
        table.add_column(
            column, justify="right" if column in right else "left", no_wrap=whole, min_width=36 if whole else None
        )
    return table


def _differences(found: Recomputed) -> None:
    numbers = ("seq", "recorded mu", "recomputed mu", "recorded delta", "recomputed delta")
    table = _table("", *numbers[:1], "run", "what", *numbers[1:], right=numbers)
    for each in found.differences[:LINES_SHOWN_MAX]:
        style = "bold red" if each.direction == "undercharged" else "yellow"
        what = f"{each.what}{', refused' if each.is_refusal else ''}"
        values = (_mu(each.recorded), _mu(each.recomputed), _delta(each.recorded), _delta(each.recomputed))
        table.add_row(Text(each.direction, style=style), f"{each.seq:,}", each.run, what, *values)
    console.out.print(table)
    more = found.counts["undercharged"] + found.counts["overcharged"] - len(found.differences[:LINES_SHOWN_MAX])
    if more > 0:
        console.out.print(f"and {more:,} more; --json has up to a thousand of either kind")


def _over(over: Sequence[Outcome], count: int) -> None:
    if not over:
        console.out.print(f"With these costs every budget is kept ({count:,} account{'s' * (count != 1)}).")
        return
    numbers = ("limit", "spent and held", "over at the end by", "at the worst by", "from entry", "as recorded")
    table = _table("account", *numbers, right=numbers)
    for each in over[:LINES_SHOWN_MAX]:
        total = each.spent + each.held
        table.add_row(
            account_name(each.key),
            _mu(each.limit),
            _mu(total),
            _pair(each.over_by) if each.is_over else "-",
            _pair(each.most_over),
            f"{each.first_over:,}",
            "kept" if each.recorded_over is None else f"over from {each.recorded_over:,}",
        )
    console.out.print(Text(f"With these costs {len(over):,} of {count:,} accounts pass their limit.", style="bold red"))
    console.out.print(table)
    if len(over) > LINES_SHOWN_MAX:
        console.out.print(f"and {len(over) - LINES_SHOWN_MAX:,} more; --json has them")


def _compositions(found: Sequence[Composition], left_out: int) -> None:
    if not found:
        return
    numbers = ("at delta", "spent", "spent, exactly", "with held", "with held, exactly")
    table = _table("account", *numbers, "", right=numbers)
    for each in found[:LINES_SHOWN_MAX]:
        for place, at in enumerate(each.at_deltas):
            name = account_name(each.keys[0]) + (f" and {len(each.keys) - 1:,} alike" if len(each.keys) > 1 else "")
            notes = [f"{', '.join(each.envelopes)} as charged"] if each.envelopes else []
            notes += [] if each.is_bound else ["an estimate"]
            columns = (each.settled.gdp, each.settled.exact, each.with_held.gdp, each.with_held.exact)
            values = [_epsilon(column[place]) for column in columns]
            table.add_row("" if place else name, console.number(at), *values, "; ".join(notes))
    console.out.print(
        "Epsilon, for information and never a decision: as the ledger adds up, and of these runs composed"
    )
    console.out.print("exactly, as if all had been fixed beforehand.")
    console.out.print(table)
    more = len(found) - LINES_SHOWN_MAX
    if more > 0 or left_out:
        console.out.print(f"and {max(more, 0) + left_out:,} more; they were not all worked out")


def _opinions(found: Sequence[Opinion], left_out: int) -> None:
    numbers = ("seq", "runs", "at delta", "ours", "theirs from", "to", "ratio")
    table = _table("", *numbers, "mechanism", right=numbers)
    for each in found[:LINES_SHOWN_MAX]:
        verdict = Text("covers", style="green")
        if not each.holds:
            verdict = Text("estimate", style="yellow") if each.is_estimate else Text("too little", style="bold red")
        values = (each.at_delta, each.ours, each.lower, each.upper, each.ratio)
        table.add_row(
            verdict, f"{each.seq:,}", f"{each.runs:,}", *map(_epsilon, values), escape(_short(each.mechanism))
        )
    if found:
        console.out.print(
            "Epsilon of single runs, beside dp-accounting's. The ledger's may be larger, and never smaller."
        )
        console.out.print(table)
    more = len(found) - len(found[:LINES_SHOWN_MAX])
    if more:
        console.out.print(f"and {more:,} more; --json has them")
    if left_out:
        console.out.print(
            f"No second opinion on {left_out:,} kinds of runs, for which dp-accounting has no distribution."
        )


def _short(mechanism: str) -> str:
    said: Mapping[str, Any] = json.loads(mechanism)
    rest = ", ".join(f"{name} {value}" for name, value in said.items() if name != "type" and value is not None)
    text = f"{said['type']}: {rest}"
    return text if len(text) <= 70 else f"{text[:69]}…"


def account_name(key: AccountKey) -> str:
    """What an account is called."""
    return escape(", ".join(f"{name} {value}" for name, value in key.facts().items()) or "the dataset")


def _mu(amount: Amount) -> str:
    return console.number(math.sqrt(max(amount.mu_sq_pico, 0)) / 1e6)


def _delta(amount: Amount) -> str:
    return console.number(-math.expm1(-max(amount.delta_atto, 0) / 1e18))


def _pair(amount: Amount) -> str:
    """By how much, in what adds up."""
    parts = [f"mu² {console.number(amount.mu_sq_pico / 1e12)}"] if amount.mu_sq_pico else []
    parts += [f"delta {_delta(amount)}"] if amount.delta_atto else []
    return ", ".join(parts) or "0"


def _epsilon(value: float | None) -> str:
    if value is None:
        return "?"
    return "∞" if math.isinf(value) else console.number(value)
