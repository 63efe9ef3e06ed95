"""A document as blocks to read: headings, sentences, tables and figures, in the order in which it is read.

HTML and PDF are made of these alone, so that they say the same. Numbers are shown to a few digits, those that an
attacker gains by rounded up; the exact integers stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final, Literal

from ledger.report.text import encode
from ledger.report.view import FIGURES_MAX, View

Tone = Literal["plain", "good", "bad", "note"]
LineStyle = Literal["plain", "strong", "mono", "dim"]
Said = Mapping[str, Any]
DIGITS: Final = 5
TEXT_SHOWN_MAX: Final = 600
"""Of a text that somebody wrote; the JSON has all of it."""
NAMES_SHOWN_MAX: Final = 24


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a cell."""

    text: str
    style: LineStyle = "plain"


Cell = tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, of level 1 for a part and 2 within one. anchor: its name in the page."""

    level: Literal[1, 2]
    text: str
    anchor: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, its width beside the others', and whether numbers stand in it."""

    title: str
    width: float
    is_number: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table. is_listing: its first column names the row."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is to be known of one thing, as pairs."""

    rows: tuple[tuple[str, Cell], ...]


FigureKind = Literal["burn_down", "projects", "trade_off", "epsilon"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a dataset. data: the part of the document that it is drawn from. is_half: two stand side by side."""

    kind: FigureKind
    caption: str
    data: Any
    is_estimate: bool
    as_of: str | None
    is_half: bool = False


Block = Heading | Paragraph | Table | Facts | Figure


# --- words and numbers -----------------------------------------------------------------------------------------------


def line(text: str, style: LineStyle = "plain") -> Cell:
    """A cell of one line."""
    return (Line(text, style),)


def significant(value: Any, *, up: bool = False, digits: int = DIGITS) -> str:
    """A number to a few digits, rounded up where it says what an attacker gains."""
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_HALF_EVEN)
    rounded = context.create_decimal(Decimal(str(value)))
    if not rounded:
        return "0"
    if -4 <= rounded.adjusted() < 9:
        text = f"{rounded:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{rounded.normalize(context):e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(rate: Any) -> str:
    """A rate in percent, rounded up."""
    return f"{significant(Decimal(str(rate)) * 100, up=True, digits=3)} %"


def digits(text: str) -> str:
    """An exact integer with its thousands set apart."""
    return f"{int(text):,}"


def moment(text: str | None) -> str:
    """A time, to the second."""
    return "–" if text is None else f"{text[:10]} {text[11:19]} UTC"


def epsilon(value: Any) -> str:
    """An epsilon, rounded up; without end where none holds."""
    return "∞" if value is None else significant(value, up=True)


def short(text: str | None) -> str:
    """What somebody wrote, cut where it is long, and said so."""
    if not text:
        return "–"
    flat = " ".join(text.split())
    return flat if len(flat) <= TEXT_SHOWN_MAX else f"{flat[:TEXT_SHOWN_MAX]}… (cut; the JSON has all of it)"


def names(found: Sequence[str] | None) -> str:
    """Names in a row, and how many more there are."""
    if not found:
        return "–"
    shown = ", ".join(found[:NAMES_SHOWN_MAX])
    return shown if len(found) <= NAMES_SHOWN_MAX else f"{shown} and {len(found) - NAMES_SHOWN_MAX} more"


def who(actor: Said | None) -> Cell:
    """Who acted."""
    if actor is None:
        return line("–", "dim")
    found = [Line(f"{short(actor['name'])} ({actor['role']})")]
    if "principal" in actor:
        found.append(Line(f"principal {actor['principal']}", "dim"))
    return tuple(found)


def amount(said: Said | None, is_estimate: bool) -> Cell:
    """An amount: mu and delta to read, the exact integers under them. ≈ marks an estimate."""
    if said is None:
        return line("–", "dim")
    about = "≈ " if is_estimate else ""
    found = [Line(f"mu {about}{significant(said['mu'])}"), Line(f"{digits(said['mu_sq_pico'])} pico", "dim")]
    if said["delta_atto"] != "0":
        found += [Line(f"delta {significant(said['delta'])}"), Line(f"{digits(said['delta_atto'])} atto", "dim")]
    return tuple(found)


def brief(said: Said | None, is_estimate: bool) -> str:
    """An amount in one line, without its integers."""
    if said is None:
        return "–"
    about = "≈ " if is_estimate else ""
    rest = "" if said["delta_atto"] == "0" else f", delta {significant(said['delta'])}"
    return f"mu {about}{significant(said['mu'])}{rest}"


def budget(said: Said | None) -> str:
    """A budget as it was declared."""
    if said is None:
        return "none of its own"
    if "epsilon" in said:
        slack = f", slack {said['slack']}" if "slack" in said else ""
        return f"epsilon {said['epsilon']} at delta {significant(said['at_delta'])}{slack}"
    return f"mu {said['mu']}" + (f", delta {significant(said['delta'])}" if "delta" in said else "")


def account_name(said: Said) -> str:
    """Which account of a dataset."""
    return ", ".join(f"{name} {value}" for name, value in said.items()) or "the dataset's own"


_ADJACENCY: Final = {"add_or_remove_one": "add or remove one", "replace_one": "replace one"}


# --- the document ----------------------------------------------------------------------------------------------------


def title(document: Said) -> str:
    """What the report is, in a line."""
    return f"Privacy budget report: {subject(document)}"


def subject(document: Said) -> str:
    """What it is about."""
    about = document["about"]
    if about["scope"] == "tenant":
        return f"all datasets of {about['tenant']['name']}"
    return f"{about['scope']} {about[about['scope']]}"


def period(document: Said) -> str:
    """The period in words."""
    about = document["about"]
    if about["from"] is None and about["to"] is None:
        return "from the beginning to the newest entry"
    since = "the beginning" if about["from"] is None else moment(about["from"])
    return f"from {since} to {'the newest entry' if about['to'] is None else moment(about['to'])}"


def tone(document: Said) -> Tone:
    """How the verdict is to be shown."""
    verdict = document["verdict"]
    if not verdict["kept"]:
        return "bad"
    return "note" if verdict["is_estimate"] else "good"


def cover(view: View) -> Facts:
    """What stands on the first page beside the verdict."""
    about = view.document["about"]
    rows = [
        ("About", line(subject(view.document))),
        ("Tenant", (Line(about["tenant"]["name"]), Line(about["tenant"]["id"], "dim"))),
        ("Period", line(period(view.document))),
        ("As of", line(moment(about["as_of"]))),
        ("Datasets", line(names(about["datasets"]))),
        ("Runs", line(f"{view.totals['runs']:,}")),
    ]
    if about["restricted_to"] is not None:
        rows.append(("Restricted to", line(f"what the key that asked may see: {names(about['restricted_to'])}")))
    return Facts(tuple(rows))


def summary(view: View) -> Table | None:
    """The first datasets at a glance, for the first page; None where none has a balance."""
    rows = []
    for item in view.document["datasets"][:SUMMARY_MAX]:
        if item["balance"] is None:
            continue
        about, at_delta = "≈ " if item["is_estimate"] else "", item["epsilon"][0]
        rows.append(
            (
                line(item["name"], "strong"),
                line(f"{about}{epsilon(at_delta['spent'])}"),
                line(f"{about}{epsilon(at_delta['committed'])}"),
                line(f"{about}{epsilon(at_delta['limit'])}"),
                line(significant(at_delta["delta"])),
                line(_used(item["balance"])),
            )
        )
    titles = (
        Column("Dataset", 2.4),
        Column("epsilon spent", 1.3, True),
        Column("and held", 1.3, True),
        Column("at the limit", 1.3, True),
        Column("at delta", 1, True),
        Column("of mu² used", 1.2, True),
    )
    more = "" if len(view.document["datasets"]) <= SUMMARY_MAX else f" (the first {SUMMARY_MAX})"
    return Table(f"At a glance{more}", titles, tuple(rows)) if rows else None


SUMMARY_MAX: Final = 12


def _used(balance: Said) -> str:
    spent, held, limit = (int(balance[name]["mu_sq_pico"]) for name in ("spent", "held", "limit"))
    return percent(Decimal(spent + held) / limit) if limit else "–"


def blocks(view: View) -> Iterator[Block]:
    """All that follows the first page."""
    yield from _verdict(view.document)
    yield from _datasets(view)
    yield from _accounts(view)
    yield from _runs(view)
    yield from _refusals(view)
    yield from _overruns(view)
    yield from _overdue(view)
    yield from _voids(view)
    yield from _changes(view)
    yield from _assumptions(view.document)
    yield from _heads(view.document)
    yield from _recompute(view.document)


def _cut(view: View, name: str, what: str) -> Iterator[Block]:
    if view.is_cut(name):
        shown, total = len(view.document[name]), view.totals[name]
        all_of_it = "JSON and CSV have" if name == "runs" else "JSON has"
        yield Paragraph(f"Shown are the newest {shown:,} of {total:,} {what}; the {all_of_it} all of them.", "note")


def _verdict(document: Said) -> Iterator[Block]:
    verdict = document["verdict"]
    yield Heading(1, "Is every budget kept?", "verdict")
    yield Paragraph(verdict["sentence"], tone(document))
    if verdict["is_estimate"]:
        yield Paragraph(
            "≈ marks an estimate (bound clt): the true number can be higher, and nothing guarantees it.", "note"
        )
    rows = [
        (
            line(item["dataset"], "strong"),
            line("holds") if item["holds"] else _broken(item["broken"]),
            line("kept" if item["kept"] else "not kept", "strong"),
            amount(item["limit_highest"], item["is_estimate"]),
            line(_times(item["limit_raised"])),
        )
        for item in verdict["datasets"]
    ]
    titles = (
        Column("Dataset", 2),
        Column("Journal", 2),
        Column("Budget", 1.2),
        Column("Highest limit ever", 2.6),
        Column("Limit raised", 1.2),
    )
    yield Table("The verdict on each dataset", titles, tuple(rows))
    yield from _exceeded(verdict)
    if document["tenant_journal"] is not None:
        yield from _tenant(document["tenant_journal"])


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def _broken(said: Said) -> Cell:
    return (Line(f"does not hold at entry {said['seq']}", "strong"), Line(short(said["detail"])))


def _exceeded(verdict: Said) -> Iterator[Block]:
    rows = [
        (
            line(item["dataset"], "strong"),
            line(account_name(each["account"])),
            (Line(f"entry {each['first_seq']}"), Line(moment(each["first_at"]), "dim")),
            amount(each["most"], item["is_estimate"]),
            amount(each["now"], item["is_estimate"]),
        )
        for item in verdict["datasets"]
        for each in item["exceeded"]
    ]
    if rows:
        titles = (
            Column("Dataset", 1.5),
            Column("Account", 1.7),
            Column("First by", 1.8),
            Column("Beyond the limit, at most", 2.3),
            Column("Now", 2.3),
        )
        yield Table("Limits that were passed", titles, tuple(rows))


def _tenant(said: Said) -> Iterator[Block]:
    yield Heading(2, "Keys and policy", "tenant")
    policy = "a second steward" if said["second_steward"] else "one steward"
    kept = (
        ("Its own journal", line("holds") if said["holds"] else _broken(said["broken"])),
        ("What loosens a budget takes", line(policy)),
        (
            "Keys within the period",
            line(f"{said['keys_made']} made, {said['keys_rotated']} rotated, {said['keys_revoked']} revoked"),
        ),
    )
    yield Facts(kept)
    rows = [
        (
            line(str(item["seq"])),
            line(moment(item["at"])),
            line("takes a second steward" if item["second_steward"] else "takes one steward"),
            who(item["by"]),
            line(short(item["reason"])),
        )
        for item in said["policies"]
    ]
    if rows:
        titles = (
            Column("Entry", 0.7),
            Column("When", 1.6),
            Column("Policy", 1.6),
            Column("By", 2.2),
            Column("Why", 2.4),
        )
        yield Table("The policy, as it was set", titles, tuple(rows))


# --- spent, held, left -----------------------------------------------------------------------------------------------


def _datasets(view: View) -> Iterator[Block]:
    document = view.document
    yield Heading(1, "What is spent, held and left", "spent")
    yield Paragraph(
        "What is counted are exact integers: mu² in units of 1e-12 (pico), and -log(1 - delta) in units of 1e-18 "
        "(atto). mu and delta above them are rounded to be read; epsilon and an attacker's rates are rounded up."
    )
    if view.is_cut("datasets"):
        shown, total = len(document["datasets"]), view.totals["datasets"]
        yield Paragraph(f"Shown are the first {shown:,} of {total:,} datasets; the JSON has all of them.", "note")
    drawn = 0
    for item in document["datasets"]:
        yield Heading(2, item["name"], f"dataset-{item['name']}")
        yield Facts(tuple(_about(item)))
        if item["balance"] is None:
            yield Paragraph(_no_balance(document, item))
        else:
            yield _balance(item)
            yield from _plainly(item)
        if item["balance"] is not None and drawn < FIGURES_MAX:
            drawn += 1
            yield from _figures(item, document["about"]["as_of"])
        elif item["balance"] is not None:
            yield Paragraph(
                f"Figures are drawn for the first {FIGURES_MAX} datasets; the JSON has the numbers.", "note"
            )


def _no_balance(document: Said, item: Said) -> str:
    if document["about"]["scope"] == "project":
        return "The project has no share here: what its runs cost is counted against the dataset's own budget."
    if item["derived_from"]:
        return f"It has no budget of its own: its runs are charged to {names(item['derived_from'])}."
    return "It has no account yet."


def _about(item: Said) -> Iterator[tuple[str, Cell]]:
    if item["title"]:
        yield "Title", line(short(item["title"]))
    if item["description"]:
        yield "Description", line(short(item["description"]))
    yield "Privacy unit", line(item["privacy_unit"] or "–")
    yield "Adjacency", line(_ADJACENCY.get(item["adjacency"], "–"))
    bound = "clt: estimates, no guarantee" if item["is_estimate"] else f"{item['bound'] or '–'}: guaranteed"
    yield "Bound", line(bound)
    yield "Size", line("not said" if item["size"] is None else f"{item['size']:,} records")
    yield "State", line(item["state"] or "–")
    counted = ", of each partition" if item["is_partitioned"] else ""
    yield "Budget", line(f"{budget(item['budget'])}{counted}")
    yield "Ceiling", line("none" if item["ceiling"] is None else brief(item["ceiling"], item["is_estimate"]))
    if item["derived_from"]:
        yield "Derived from", line(names(item["derived_from"]))
    if item["fair_use"] is not None:
        rate = item["fair_use"]["runs_per_hour"]
        held = "without limit" if item["fair_use"]["held"] is None else budget(item["fair_use"]["held"])
        yield "Fair use", line(f"one principal may hold {held}" + ("" if rate is None else f", {rate} runs an hour"))
    totals = item["totals"]
    yield (
        "Runs in the period",
        line(
            f"{totals['approved']:,} approved, {totals['refused']:,} refused, {totals['settled']:,} settled, "
            f"{totals['voided']:,} voided, {totals['overruns']:,} overran; {totals['open']:,} open at the end"
        ),
    )


def _balance(item: Said) -> Table:
    about = "≈ " if item["is_estimate"] else ""
    rows = []
    for name in ("limit", "spent", "held", "left"):
        said = item["balance"][name]
        rows.append(
            (
                line(name, "strong"),
                line(f"{about}{significant(said['mu'])}"),
                line(digits(said["mu_sq_pico"])),
                line(significant(said["delta"])),
                line(digits(said["delta_atto"])),
            )
        )
    titles = (
        Column("", 1),
        Column("mu", 1.2, True),
        Column("mu², × 1e-12, exact", 2.2, True),
        Column("delta", 1.4, True),
        Column("-log(1 - delta), × 1e-18, exact", 2.6, True),
    )
    of = "the partition where most is used" if item["is_partitioned"] else "the account"
    return Table(f"The balance of {of}", titles, tuple(rows))


def _plainly(item: Said) -> Iterator[Block]:
    """What the balance means: epsilon, and what an attacker gets."""
    unit = item["privacy_unit"]
    spent = item["attack"]["spent"]["true_positive_rates"][0]
    about = "By estimate, whoever" if item["is_estimate"] else "Whoever"
    yield Paragraph(
        f"{about} has all that was released so far, knows everybody else in the data, and guesses whether one {unit} "
        f"is in it, finds at most {percent(spent['true_positive_rate'])} of those who are, where "
        f"{percent(spent['false_positive_rate'])} of those who are not are taken for one."
    )
    about = "≈ " if item["is_estimate"] else ""
    rows = [
        (
            line(f"epsilon at delta {significant(at_delta['delta'])}", "strong"),
            *(line(f"{about}{epsilon(at_delta[name])}") for name in _WHICH),
        )
        for at_delta in item["epsilon"]
    ]
    for index, rate in enumerate(item["attack"]["spent"]["true_positive_rates"]):
        rows.append(
            (
                line(f"best true-positive rate at {percent(rate['false_positive_rate'])} false positives", "strong"),
                *(
                    line(f"{about}{percent(item['attack'][name]['true_positive_rates'][index]['true_positive_rate'])}")
                    for name in _WHICH
                ),
            )
        )
    rows.append(
        (
            line("best advantage (true less false positives)", "strong"),
            *(line(f"{about}{percent(item['attack'][name]['advantage'])}") for name in _WHICH),
        )
    )
    titles = (
        Column("", 3.4),
        Column("spent", 1.3, True),
        Column("spent and held", 1.3, True),
        Column("at the limit", 1.3, True),
    )
    yield Table("What that means for one who is in the data", titles, tuple(rows))


_WHICH: Final = ("spent", "committed", "limit")


def _figures(item: Said, as_of: str | None) -> Iterator[Block]:
    figures, is_estimate, name = item["figures"], item["is_estimate"], item["name"]
    counted = " of the partition that has most" if item["is_partitioned"] else ""
    estimate = " Estimates (bound clt)." if is_estimate else ""

    def drawn(kind: FigureKind, caption: str, data: Any, is_half: bool = False) -> Figure:
        return Figure(kind, f"{name}: {caption}{estimate}", data, is_estimate, as_of, is_half)

    if figures["burn_down"]:
        yield drawn("burn_down", f"what is spent and held{counted}, and the limit, over time.", figures["burn_down"])
    if item["projects"]:
        yield drawn("projects", "what the runs of each project spent and hold.", item["projects"])
    if figures["trade_off"] is not None:
        caption = "the least error of a test of whether one unit is in the data."
        yield drawn("trade_off", caption, figures["trade_off"], True)
        yield drawn("epsilon", "epsilon at each delta.", figures["epsilon"], True)


def _accounts(view: View) -> Iterator[Block]:
    items = [item for item in view.document["accounts"] if item["kind"] != "dataset"]
    if not items:
        return
    yield Heading(2, "Partitions, projects and principals", "accounts")
    if view.is_cut("accounts"):
        shown, total = len(view.document["accounts"]), view.totals["accounts"]
        yield Paragraph(f"Shown are the first {shown:,} of {total:,} accounts; the JSON has all of them.", "note")
    rows = []
    for item in items:
        about = item["is_estimate"]
        rows.append(
            (
                (Line(item["dataset"], "strong"), Line(account_name(item["account"]))),
                *(amount(item[name], about) for name in ("limit", "spent", "held", "left")),
                _disclosed(item),
            )
        )
    titles = (
        Column("Account", 1.6),
        *(Column(name, 2) for name in ("Limit", "Spent", "Held", "Left")),
        Column("Spent means", 1.6),
    )
    yield Table("Every other account", titles, tuple(rows))


def _disclosed(item: Said) -> Cell:
    if item["attack"] is None:
        return (Line("limits what is held at once; no guarantee about the data", "dim"),)
    about = "≈ " if item["is_estimate"] else ""
    found = [Line(f"epsilon {about}{epsilon(each['spent'])}") for each in item["epsilon"]]
    rates = item["attack"]["spent"]["true_positive_rates"]
    found += [
        Line(f"{about}{percent(each['true_positive_rate'])} at {percent(each['false_positive_rate'])}", "dim")
        for each in rates
    ]
    return (*found, Line(f"advantage {about}{percent(item['attack']['spent']['advantage'])}", "dim"))


# --- runs ------------------------------------------------------------------------------------------------------------


def _runs(view: View) -> Iterator[Block]:
    yield Heading(1, "Every run", "runs")
    yield from _cut(view, "runs", "runs")
    items = view.document["runs"]
    if not items:
        yield Paragraph("There is no run in the period.")
        return
    yield Paragraph(
        "Under a decision stand the run's id and the hash of the entry that decided it, under a start the hash of the "
        "start: these are what a receipt names."
    )
    titles = (Column("Decision", 2.8), Column("Who and why", 2.3), Column("Mechanism", 2.2), Column("Cost", 2.3))
    for dataset in dict.fromkeys(item["dataset"] for item in items):
        mine = tuple(_run(item) for item in items if item["dataset"] == dataset)
        yield Table(f"Runs on {dataset}, in the order in which they were decided", titles, mine)


def _run(item: Said) -> tuple[Cell, ...]:
    return (tuple(_decision(item)), tuple(_why(item)), tuple(_mechanism(item)), tuple(_cost(item)))


def _decision(item: Said) -> Iterator[Line]:
    yield Line(f"{item['state']}, entry {item['seq']}", "strong")
    yield Line(moment(item["at"]))
    yield Line(item["run"], "mono")
    yield Line(item["hash"], "mono")
    if item["is_carried_in"]:
        yield Line("open when the period began")
    if item["start_by"] is not None and item["started"] is None and item["state"] == "held":
        yield Line(f"to be started by {moment(item['start_by'])}")
    if item["started"] is not None:
        yield Line(f"started {moment(item['started']['at'])}, entry {item['started']['seq']}")
        yield Line(item["started"]["hash"], "mono")
    if item["ended"] is not None:
        ended = item["ended"]
        yield Line(f"{ended['kind']} {moment(ended['at'])}, entry {ended['seq']}")


def _why(item: Said) -> Iterator[Line]:
    yield from who(item["asked_by"])
    yield Line(f"purpose: {short(item['purpose'])}")
    if item["project"] is not None:
        yield Line(f"project: {item['project']}")
    for name, value in item["labels"].items():
        yield Line(f"{short(name)}: {short(value)}", "dim")
    if item["code"] is not None:
        yield Line(f"code: {short(item['code']['repository'])}")
        yield Line(f"commit {short(item['code']['commit'])}", "mono")
    if item["partitions"] is not None:
        yield Line(f"partitions: {names(item['partitions'])}")
    if item["named_as"] and item["named_as"] != [item["dataset"]]:
        yield Line(f"reached by way of {names(item['named_as'])}")
    if item["ended"] is not None and item["ended"]["reason"] is not None:
        yield Line(f"voided because: {short(item['ended']['reason'])}")


def _mechanism(item: Said) -> Iterator[Line]:
    mechanism = dict(item["mechanism"])
    yield Line(str(mechanism.pop("type")), "strong")
    for name, value in mechanism.items():
        yield Line(f"{name} {short(value if isinstance(value, str) else encode(value))}")
    yield Line(f"{item['bound']} by {item['method']}, {item['accountant']}")
    yield Line(_ADJACENCY[item["adjacency"]], "dim")
    if item["delta_share"] is not None:
        yield Line(f"its share of delta {significant(item['delta_share'])}")
    if item["segments"] is not None:
        yield Line(f"{item['segments']['count']} segments of {item['segments']['steps']:,} steps")
    planned, executed = item["planned_steps"], item["executed_steps"]
    if planned is not None:
        done = "" if executed is None else f", executed {executed:,}"
        yield Line(f"steps: planned {planned:,}{done}")
    if item["stop"] is not None:
        yield Line(f"stopped: {item['stop'].replace('_', ' ')}")


def _cost(item: Said) -> Iterator[Line]:
    estimate = item["is_estimate"]
    if estimate:
        yield Line("estimates", "strong")
    for name in ("cost", "charged", "returned"):
        if item[name] is not None:
            yield Line(f"{name}: {brief(item[name], estimate)}")
            yield Line(f"{digits(item[name]['mu_sq_pico'])} pico", "dim")
            if item[name]["delta_atto"] != "0":
                yield Line(f"{digits(item[name]['delta_atto'])} atto", "dim")
    if item["overrun"] is not None:
        yield Line(f"overran by {item['overrun']['steps']:,} steps", "strong")
    yield Line(f"left after it: {brief(item['left_after_decision'], estimate)}")
    if item["left_at_end"] is not None:
        yield Line(f"left at its end: {brief(item['left_at_end'], estimate)}")


# --- what stands beside the runs -------------------------------------------------------------------------------------


def _place(item: Said) -> Cell:
    return (
        Line(item["dataset"], "strong"),
        Line(f"entry {item['seq']}"),
        Line(moment(item["at"]), "dim"),
        *((Line(item["run"], "mono"),) if "run" in item else ()),
    )


def _listed(
    view: View, name: str, heading: str, none: str, titles: tuple[Column, ...], rows: Iterable[tuple[Cell, ...]]
) -> Iterator[Block]:
    yield Heading(1, heading, name)
    yield from _cut(view, name, heading.lower())
    found = tuple(rows)
    if found:
        first = "The longest overdue first" if name == "overdue" else "In the order in which it was recorded"
        yield Table(first, titles, found)
    else:
        yield Paragraph(none)


def _refusals(view: View) -> Iterator[Block]:
    rows = (
        (
            _place(item),
            who(item["by"]),
            amount(item["asked"], item["is_estimate"]),
            tuple(_bound_by(item)),
        )
        for item in view.document["refusals"]
    )
    titles = (Column("Run", 2.8), Column("Asked by", 2.3), Column("Asked for", 2.1), Column("Did not fit in", 2.3))
    yield from _listed(view, "refusals", "Refusals", "No run was refused in the period.", titles, rows)


def _bound_by(item: Said) -> Iterator[Line]:
    for each in item["binding"]:
        about = "≈ " if item["is_estimate"] and each["quantity"] == "mu" else ""
        quantity = each["quantity"]
        left, limit = (significant(each[name][quantity]) for name in ("left", "limit"))
        yield Line(account_name(each["account"]), "strong")
        yield Line(f"{quantity}: {about}{left} left of {limit}")
    if item["binding_elsewhere"]:
        yield Line(f"and did not fit in {names(item['binding_elsewhere'])}")


def _overruns(view: View) -> Iterator[Block]:
    rows = (
        (
            _place(item),
            who(item["by"]),
            line(f"{item['steps']:,} beyond the plan of {item['planned_steps'] or 0:,}"),
            (*amount(item["cost"], item["is_estimate"]), Line(item["method"], "dim")),
            line("it fit in what was left" if item["fits"] else f"did not fit, and froze {names(item['frozen'])}"),
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
    yield from _listed(view, "overruns", "Overruns", "No run executed more than was planned.", titles, rows)


def _overdue(view: View) -> Iterator[Block]:
    rows = (
        (
            _place(item),
            who(item["by"]),
            line(
                f"{item['state']}, to be {'started' if item['state'] == 'held' else 'settled'} by {moment(item['due'])}"
            ),
            amount(item["cost"], item["is_estimate"]),
        )
        for item in view.document["overdue"]
    )
    titles = (Column("Run", 2.8), Column("Asked by", 2.3), Column("Late", 2.1), Column("Goes on holding", 2.1))
    none = "No hold is overdue."
    yield from _listed(view, "overdue", "Overdue holds", none, titles, rows)


def _voids(view: View) -> Iterator[Block]:
    rows = (
        (
            _place(item),
            who(item["by"]),
            who(item["proposed_by"]),
            (Line(f"was {item['was']}", "strong"), Line(short(item["reason"]))),
        )
        for item in view.document["voids"]
    )
    titles = (Column("Run", 2.8), Column("By", 2.3), Column("Proposed by", 2.3), Column("Why", 2))
    yield from _listed(view, "voids", "Voids", "No run was voided in the period.", titles, rows)


def _changes(view: View) -> Iterator[Block]:
    rows = (
        (
            _place(item),
            tuple(_changed(item)),
            who(item["by"]),
            who(item["proposed_by"]),
            line(short(item["reason"] or (item["details"].get("proposes") or {}).get("reason"))),
        )
        for item in view.document["changes"]
    )
    titles = (
        Column("Entry", 1.6),
        Column("What", 2.5),
        Column("By", 2.1),
        Column("Proposed by", 2.1),
        Column("Why", 1.8),
    )
    none = "Nothing was changed in the period."
    yield from _listed(view, "changes", "Budgets, and what else was changed", none, titles, rows)


def _changed(item: Said) -> Iterator[Line]:
    details = item["details"]
    yield Line(item["kind"].replace("-", " "), "strong")
    if "what" in details:
        yield Line(f"{details['what']}, under {item['proposal']}", "dim")
    if "about_run" in details:
        yield Line(f"run {details['about_run']}", "mono")
    if "proposes" in details and "budget" in details["proposes"]:
        yield Line(f"would set {budget(details['proposes']['budget'])}")
    if "project" in details:
        yield Line(f"project {details['project']}")
    if "budget" in details:
        yield Line(f"budget {budget(details['budget'])}")
    before, after = details.get("limit_before"), details.get("limit")
    if after is not None:
        yield Line(f"limit {brief(after, False)}" + ("" if before is None else f", before {brief(before, False)}"))
    if "names" in details:
        yield Line(f"partitions {names(details['names'])}, said to be disjoint")
    if "fair_use" in details and details["fair_use"]["held"] is not None:
        yield Line(f"one principal may hold {budget(details['fair_use']['held'])}")
    if "state" in details and item["kind"] == "dataset-changed":
        yield Line(f"now {details['state']}")
    if item["kind"] == "dataset-changed" and {"title", "description"} & set(details):
        yield Line("title or description worded anew")


# --- what it rests on ------------------------------------------------------------------------------------------------


def _assumptions(document: Said) -> Iterator[Block]:
    yield Heading(1, "What the numbers rest on", "assumptions")
    items = document["assumptions"]
    shared = [item for item in items if item["about"] in _SHARED]
    for about in _SHARED:
        sentence = next((item["sentence"] for item in shared if item["about"] == about), None)
        if sentence is not None:
            yield Paragraph(f"{about.capitalize()}. {sentence}")
    titles = (Column("Dataset", 1.2), Column("About", 1.2), Column("Assumed", 6))
    rows = tuple(
        (line(item["dataset"], "strong"), line(item["about"]), line(item["sentence"]))
        for item in items
        if item["about"] not in _SHARED
    )
    if rows:
        yield Table("Assumptions of each dataset", titles, rows)


_SHARED: Final = ("composition", "declarations")


def _heads(document: Said) -> Iterator[Block]:
    yield Heading(1, "Where the journals end", "heads")
    yield Paragraph(
        "A head stands for the whole journal before it. Compare it with one that you kept, or got from somebody else: "
        "whoever changes, removes or cuts off an entry cannot keep it."
    )
    for head in document["heads"]:
        yield Heading(2, head["dataset"] or "the tenant's own journal", f"head-{head['dataset'] or ''}")
        yield Facts(
            (
                ("Entries", line(f"{head['seq']:,}, of which this report counts {head['counted_seq']:,}")),
                ("Hash", line(head["hash"], "mono")),
                ("Root", line(head["root"] or "none", "mono")),
                ("Signature", line(head["signature"] or "this head is not signed", "mono")),
                ("Counted to", line(head["counted_hash"] or "–", "mono")),
            )
        )


def _recompute(document: Said) -> Iterator[Block]:
    said = document["recompute"]
    yield Heading(1, "How to work it out again", "recompute")
    yield Paragraph(said["totals"])
    rows = tuple(
        (line(item["quantity"], "strong"), line(item["formula"]), line(item["source"])) for item in said["formulas"]
    )
    yield Table("Formulas", (Column("Quantity", 1.6), Column("Formula", 3), Column("Source", 2.6)), rows)
    yield Facts(tuple((f"{index}.", line(command, "mono")) for index, command in enumerate(said["commands"], start=1)))
    yield Paragraph(f"To be read beside it: {', '.join(said['documents'])}.")
