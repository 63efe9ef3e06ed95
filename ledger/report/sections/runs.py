"""The sections of runs, refusals, overruns, overdue runs and voids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ledger.accounting import disclosure
from ledger.core.amounts import Amount
from ledger.encoding import JsonObject, encode
from ledger.report.blocks import Block, Cell, Column, Details, Heading, Line, Paragraph, Table, line
from ledger.report.phrases import (
    ADJACENCY,
    account_name,
    amount,
    brief,
    deltas_of,
    digits,
    limits_of,
    moment,
    names,
    part_of,
    short,
    significant,
    who,
)
from ledger.report.view import View

RESTARTS_SHOWN_MAX: Final = 20
MODELS_SHOWN_MAX: Final = 5
LABELS_SHOWN_MAX: Final = 8
LABEL_CHARS_MAX: Final = 80
"""The bound of one run."""


def beyond(overrun: JsonObject) -> str:
    """Return what was executed beyond the plan."""
    steps, repeated = overrun["steps"], overrun["repeated"]
    if repeated is None:
        return f"{steps:,} steps beyond the plan, new or repeated"
    again = f", {repeated:,} repeated" if repeated else ""
    return f"{steps - repeated:,} steps beyond the plan{again}"


def _cut(view: View, name: str, what: str) -> Iterator[Block]:
    if view.is_cut(name):
        count, total = len(view.document[name]), view.totals[name]
        all_of_it = "JSON and the CSV have" if name == "runs" else "JSON has"
        yield Paragraph(f"This shows the newest {count:,} of {total:,} {what}. The {all_of_it} all of them.", "note")


def runs(view: View) -> Iterator[Block]:
    """Yield the runs of each dataset."""
    yield Heading(1, "All runs", "runs")
    yield from _cut(view, "runs", "runs")
    items = view.document["runs"]
    if not items:
        yield Paragraph("There were no runs in the period.")
        return
    yield Paragraph(
        "One line for each run. The cost is what was charged; of a run that has not ended, what is held; of a refused"
        " one, what it asked for: in percent of the dataset's limit, which adds up, then the epsilon of the run by"
        " itself, and mu. The details are at the end of the report."
    )
    limits, deltas = limits_of(view.document["datasets"]), deltas_of(view.document["datasets"])
    for dataset, mine in _by_dataset(items):
        delta = deltas.get(dataset)
        alone = [None] * len(mine) if delta is None else _epsilons(mine, delta)
        rows = tuple(_run(item, limits.get(dataset), epsilon_) for item, epsilon_ in zip(mine, alone, strict=True))
        at = "" if delta is None else f"; epsilon at delta {significant(delta)}"
        yield Table(f"Runs on {dataset}, in the order of their decisions{at}", _LINE, rows)


_LINE: Final = (
    Column("Entry", 0.6, True),
    Column("Decided", 1.15),
    Column("State", 0.8),
    Column("Asked by", 1.3),
    Column("Purpose", 2.3),
    Column("Mechanism", 1.9),
    Column("Cost", 0.95, True),
    Column("epsilon", 0.95, True),
    Column("mu", 0.95, True),
)
PURPOSE_SHOWN_MAX: Final = 24
NAME_SHOWN_MAX: Final = 13
MECHANISM_SHOWN_MAX: Final = 20


def _by_dataset(items: Sequence[JsonObject]) -> Iterator[tuple[str, list[JsonObject]]]:
    for dataset in dict.fromkeys(item["dataset"] for item in items):
        yield dataset, [item for item in items if item["dataset"] == dataset]


def _epsilons(items: Sequence[JsonObject], delta: float) -> list[float | None]:
    """Return the epsilon of each run by itself, from the integers in the document."""
    spent = [Amount(int(_counted(item)["mu_sq_pico"]), int(_counted(item)["delta_atto"])) for item in items]
    return disclosure.epsilons(spent, at_delta=delta)


def _counted(item: JsonObject) -> JsonObject:
    """Return what a run was charged or, without that, what it would cost."""
    counted: JsonObject = item["cost"] if item["charged"] is None else item["charged"]
    return counted


def _run(item: JsonObject, limit: JsonObject | None, epsilon_: float | None) -> tuple[Cell, ...]:
    counted = _counted(item)
    part = part_of(counted, limit).removesuffix(" of the limit")
    about = "≈ " if item["is_estimate"] else ""
    return (
        line(f"{item['seq']}"),
        line(item["at"][:10]),
        line(item["state"] + (", overrun" if item["overrun"] else ""), "strong" if item["overrun"] else "plain"),
        line(_cut_to(item["asked_by"]["name"], NAME_SHOWN_MAX)),
        line(_cut_to(short(item["purpose"]), PURPOSE_SHOWN_MAX)),
        line(_in_brief(item["mechanism"])),
        line(f"{about}{part or '–'}"),
        line("–" if epsilon_ is None else f"{about}{significant(epsilon_, up=True, digits=3)}"),
        line(f"{about}{significant(counted['mu'], up=True, digits=3)}"),
    )


def _cut_to(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _in_brief(mechanism: JsonObject) -> str:
    noise, steps = mechanism.get("noise_multiplier"), mechanism.get("steps", mechanism.get("count"))
    noisy = "" if not isinstance(noise, int | float) else f" {significant(noise, digits=3)}"
    return _cut_to(
        f"{mechanism['type']}{noisy}{'' if not isinstance(steps, int) else f' × {steps:,}'}", MECHANISM_SHOWN_MAX
    )


def details(view: View) -> Iterator[Block]:
    """Yield everything about each run, in small print."""
    items = view.document["runs"]
    if not items:
        return
    yield Heading(1, "Details of the runs", "details")
    yield Paragraph(
        "Each decision with the id of the run and the hash of its entry, and each start with the hash of its entry. A"
        " receipt names these hashes. Costs in exact integers: mu² in pico, -log(1 - delta) in atto. A run without a"
        " reason for its end stopped as planned, and what is not stated as charged or returned is zero."
    )
    limits = limits_of(view.document["datasets"])
    adjacencies = {item["name"]: item["adjacency"] for item in view.document["datasets"]}
    for dataset, mine in _by_dataset(items):
        yield Heading(2, f"Runs on {dataset}", f"details-{dataset}")
        askers = list(dict.fromkeys(who(item["asked_by"]) for item in mine))
        people = (Line("Who asked", "strong"), *(Line(", ".join(part.text for part in asker)) for asker in askers))
        named = Counter(asker[0] for asker in askers)
        rows = (
            (
                *_detail(item, limits.get(dataset), adjacencies.get(dataset)),
                # The principal is stated once, before the runs; where one name is of several, at each run too.
                *(who(item["asked_by"])[1:] if named[who(item["asked_by"])[0]] > 1 else ()),
            )
            for item in mine
        )
        yield Details((people, *rows))


def _detail(item: JsonObject, limit: JsonObject | None, adjacency: str | None) -> Iterator[Line]:
    if item["adjacency"] != adjacency:
        yield Line(ADJACENCY[item["adjacency"]], "strong")
    yield from _decision(item)
    yield from _why(item)
    yield from _mechanism(item)
    yield from _cost(item, limit)


def _decision(item: JsonObject) -> Iterator[Line]:
    yield Line(f"{item['state']}, entry {item['seq']}", "strong")
    yield Line(_at(item["at"]))
    yield Line(item["run"], "mono")
    yield Line(item["hash"], "mono")
    if item["is_carried_in"]:
        yield Line("open when the period began")
    if item["start_by"] is not None and item["started"] is None and item["state"] == "held":
        yield Line(f"must be started by {_at(item['start_by'])}")
    if item["started"] is not None:
        yield Line(f"started {_at(item['started']['at'])}, entry {item['started']['seq']}")
        yield Line(item["started"]["hash"], "mono")
    if item["ended"] is not None:
        ended = item["ended"]
        yield Line(f"{ended['kind']} {_at(ended['at'])}, entry {ended['seq']}")


def _at(text: str) -> str:
    """Return a time; the page says once that all are UTC."""
    return moment(text).removesuffix(" UTC")


def _why(item: JsonObject) -> Iterator[Line]:
    yield who(item["asked_by"])[0]
    yield Line(f"purpose: {short(item['purpose'])}")
    if item["project"] is not None:
        yield Line(f"project: {item['project']}")
    labels = list(item["labels"].items())
    for name, value in labels[:LABELS_SHOWN_MAX]:
        yield Line(short(f"{name}: {value}", at_most=LABEL_CHARS_MAX), "dim")
    if len(labels) > LABELS_SHOWN_MAX:
        yield Line(f"{len(labels) - LABELS_SHOWN_MAX} more labels in the JSON", "dim")
    if item["code"] is not None:
        yield Line(f"code: {short(item['code']['repository'])}")
        yield Line(f"commit {short(item['code']['commit'])}", "mono")
    if item["size_differs"] is not None:
        yield Line(f"the number of units differs from the registered one: {short(item['size_differs'])}")
    if item["partitions"] is not None:
        yield Line(f"partitions: {names(item['partitions'])}")
    if item["named_as"] and item["named_as"] != [item["dataset"]]:
        yield Line(f"requested as {names(item['named_as'])}")
    if item["ended"] is not None and item["ended"]["reason"] is not None:
        yield Line(f"voided because: {short(item['ended']['reason'])}")


def _mechanism(item: JsonObject) -> Iterator[Line]:
    mechanism = dict(item["mechanism"])
    yield Line(str(mechanism.pop("type")), "strong")
    for name, value in mechanism.items():
        yield Line(f"{name} {short(value if isinstance(value, str) else encode(value))}")
    yield Line(f"{item['bound']} by {item['method']}, {item['accountant']}")
    if item["delta_share"] is not None:
        yield Line(f"its part of the delta budget: {significant(item['delta_share'])}")
    if item["segments"] is not None:
        yield Line(f"{item['segments']['count']} segments of {item['segments']['steps']:,} steps")
    planned, executed = item["planned_steps"], item["executed_steps"]
    if planned is not None:
        done = "" if executed is None else f", executed {executed:,}"
        yield Line(f"steps: planned {planned:,}{done}")
    if item["stop"] not in (None, "planned"):
        yield Line(f"stopped: {item['stop'].replace('_', ' ')}")
    yield from _restarts(item)
    yield from _models(item)


def _restarts(item: JsonObject) -> Iterator[Line]:
    if item["restarts"] == []:
        yield Line("no step was repeated")
    for restart in (item["restarts"] or ())[:RESTARTS_SHOWN_MAX]:
        batches = "new batches" if restart["new_batches"] else "the same batches"
        yield Line(f"repeated: steps {restart['from_step']:,} to {restart['to_step']:,}, {batches}")
    more = len(item["restarts"] or ()) - RESTARTS_SHOWN_MAX
    if more > 0:
        yield Line(f"and {more:,} more restarts; the JSON has all of them")
    for sentence in item["settled_assuming"]:
        yield Line(sentence, "dim")


def _models(item: JsonObject) -> Iterator[Line]:
    for model in (item["models"] or ())[:MODELS_SHOWN_MAX]:
        yield Line(f"produced {short(model['name'])}: {model['size']:,} bytes, SHA-256 {model['sha256']}")
    more = len(item["models"] or ()) - MODELS_SHOWN_MAX
    if more > 0:
        yield Line(f"and {more:,} more files; the JSON has all of them")


def _cost(item: JsonObject, limit: JsonObject | None) -> Iterator[Line]:
    """Yield what a run cost, in percent of the dataset's limit now, and in the units of the ledger."""
    estimate = item["is_estimate"]
    if estimate:
        yield Line("estimates", "strong")
    amounts = {name: item[name] for name in ("cost", "charged", "returned")}
    for name, one in amounts.items():
        if one is not None and name != "cost" and one == item["cost"]:
            yield Line(f"{name}: all of it")
        elif one is not None and (name == "cost" or not _is_nothing(one)):
            yield Line(f"{name}: {brief(item[name], estimate, limit)}")
            yield Line(f"{digits(item[name]['mu_sq_pico'])} pico", "dim")
            if item[name]["delta_atto"] != "0":
                yield Line(f"{digits(item[name]['delta_atto'])} atto", "dim")
    if item["overrun"] is not None:
        yield Line(f"overrun: {beyond(item['overrun'])}", "strong")
    yield Line(f"left after it: {_left(item['left_after_decision'], estimate, limit)}")
    if item["left_at_end"] is not None:
        yield Line(f"at its end: {_left(item['left_at_end'], estimate, limit)}")


def _left(amounts: JsonObject | None, is_estimate: bool, limit: JsonObject | None) -> str:
    """Return what is left: in percent alone if there is a limit and no delta to say."""
    part = "" if amounts is None or amounts["delta_atto"] != "0" else part_of(amounts, limit, up=False)
    whole = brief(amounts, is_estimate, limit, is_left=True)
    return whole if not part else f"{'≈ ' if is_estimate else ''}{part.removesuffix(' of the limit')}"


def _is_nothing(amounts: JsonObject) -> bool:
    return bool(amounts["mu_sq_pico"] == amounts["delta_atto"] == "0")


def position(item: JsonObject) -> Cell:
    """Return the dataset, entry number and time of an item."""
    return (
        Line(item["dataset"], "strong"),
        Line(f"entry {item['seq']}"),
        Line(moment(item["at"]), "dim"),
        *((Line(item["run"], "mono"),) if "run" in item else ()),
    )


def listed(
    view: View, name: str, heading: str, none: str, titles: tuple[Column, ...], rows: Iterable[tuple[Cell, ...]]
) -> Iterator[Block]:
    """Yield a section with one table of items, or the sentence `none` if there are none."""
    yield Heading(1, heading, name)
    yield from _cut(view, name, heading.lower())
    cells = tuple(rows)
    if cells:
        first = "The most overdue first" if name == "overdue" else "In the order of recording"
        yield Table(first, titles, cells)
    else:
        yield Paragraph(none)


def refusals(view: View) -> Iterator[Block]:
    """Yield the refused runs."""
    limits = limits_of(view.document["datasets"])
    rows = (
        (
            position(item),
            who(item["by"]),
            amount(item["asked"], item["is_estimate"], limits.get(item["dataset"])),
            tuple(_bound_by(item)),
        )
        for item in view.document["refusals"]
    )
    titles = (
        Column("Run", 2.8),
        Column("Asked by", 2.3),
        Column("Requested cost", 2.1),
        Column("What did not fit", 2.3),
    )
    yield from listed(view, "refusals", "Refusals", "No run was refused in the period.", titles, rows)


def _bound_by(item: JsonObject) -> Iterator[Line]:
    for binding in item["binding"]:
        about = "≈ " if item["is_estimate"] and binding["quantity"] == "mu" else ""
        quantity = binding["quantity"]
        left, limit = (significant(binding[name][quantity]) for name in ("left", "limit"))
        part = part_of(binding["left"], binding["limit"], up=False) if quantity == "mu" else ""
        yield Line(account_name(binding["account"]), "strong")
        yield Line(f"{f'{part} left; ' if part else ''}{quantity}: {about}{left} left of {limit}")
    if item["binding_elsewhere"]:
        yield Line(f"it did not fit in {names(item['binding_elsewhere'])} either")


def overruns(view: View) -> Iterator[Block]:
    """Yield the runs that executed more than was approved."""
    limits = limits_of(view.document["datasets"])
    rows = (
        (
            position(item),
            who(item["by"]),
            line(f"{beyond(item)}; the plan had {item['planned_steps'] or 0:,}"),
            (*amount(item["cost"], item["is_estimate"], limits.get(item["dataset"])), Line(item["method"], "dim")),
            line("it fit in what was left" if item["fits"] else f"it did not fit, and froze {names(item['frozen'])}"),
        )
        for item in view.document["overruns"]
    )
    titles = (
        Column("Run", 2.8),
        Column("Settled by", 2.1),
        Column("Steps", 1.1),
        Column("Cost", 2),
        Column("Then", 1.3),
    )
    yield from listed(view, "overruns", "Overruns", "No run executed more than was planned.", titles, rows)


def corrections(view: View) -> Iterator[Block]:
    """Yield the settled runs that were corrected: what was charged in addition or given back, and on whose word."""
    rows = (
        (
            position(item),
            (*who(item["by"]), *_proposer(item)),
            (Line(short(item["reason"])), *_word(item)),
            line(f"mu {significant(item['before']['mu'])}, now {significant(item['charged']['mu'])}"),
            line(_outcome(item)),
        )
        for item in view.document["corrections"]
    )
    titles = (
        Column("Run", 2.6),
        Column("By", 2.1),
        Column("Why", 2.2),
        Column("Charged", 1.5),
        Column("Then", 1.6),
    )
    none = "No run was corrected after it was settled."
    yield from listed(view, "corrections", "Corrections", none, titles, rows)


def _proposer(item: JsonObject) -> Iterator[Line]:
    if item["proposed_by"]:
        yield Line("proposed by", "dim")
        yield from who(item["proposed_by"])


def _word(item: JsonObject) -> Iterator[Line]:
    if item["on_word_of"]:
        yield Line(f"on the word of: {short(item['on_word_of'])}", "dim")
    if item["decided_by_output"]:
        yield Line("an output may have decided what ran", "dim")


def _outcome(item: JsonObject) -> str:
    if not item["fits"]:
        return f"it did not fit, and froze {names(item['frozen'])}"
    if item["returned"]["mu"] or item["returned"]["delta"]:
        return f"given back: mu {significant(item['returned']['mu'])}"
    return "it fit in what was left"


def overdue(view: View) -> Iterator[Block]:
    """Yield the runs that should have been started or settled."""
    limits = limits_of(view.document["datasets"])
    rows = (
        (
            position(item),
            who(item["by"]),
            line(
                f"{item['state']}; {'start' if item['state'] == 'held' else 'settle'} was due by {moment(item['due'])}"
            ),
            amount(item["cost"], item["is_estimate"], limits.get(item["dataset"])),
        )
        for item in view.document["overdue"]
    )
    titles = (Column("Run", 2.8), Column("Asked by", 2.3), Column("Late", 2.1), Column("Still held", 2.1))
    none = "No run is overdue."
    yield from listed(view, "overdue", "Overdue runs", none, titles, rows)


def voids(view: View) -> Iterator[Block]:
    """Yield the voided runs."""
    rows = (
        (
            position(item),
            who(item["by"]),
            who(item["proposed_by"]),
            (Line(f"was {item['was']}", "strong"), Line(short(item["reason"]))),
        )
        for item in view.document["voids"]
    )
    titles = (Column("Run", 2.8), Column("By", 2.3), Column("Proposed by", 2.3), Column("Why", 2))
    yield from listed(view, "voids", "Voids", "No run was voided in the period.", titles, rows)
