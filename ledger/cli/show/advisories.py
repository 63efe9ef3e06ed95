"""Print advisories, and the runs that they touch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from ledger.advisories.catalogue import DIRECTIONS
from ledger.cli.show import rows
from ledger.cli.show.console import counted, err, new_grid, number, out


def known(items: Sequence[Mapping[str, Any]]) -> None:
    """Print advisories without runs: one as a whole, several as a table."""
    if len(items) == 1:
        _one(items[0])
        return
    cells = [(item["id"], _direction(item), _versions(item), item["title"]) for item in items]
    rows.show(rows.Rows(("id", "direction", "versions", "fault"), cells, texts=("fault",), drop=("versions",)))
    err.print(f"{counted(len(items), 'advisory', 'advisories')}. Read one with its sources: --known --id ID")


def touched(answer: Mapping[str, Any]) -> None:
    """Print each advisory with the runs that it touches, and how many runs record nothing."""
    for item in answer["items"]:
        _one(item)
        _runs(item)
        out.print()
    clear = answer["read"] - answer["touched"] - answer["not_recorded"]
    grid = new_grid()
    grid.add_row("runs read", f"{answer['read']:,}")
    grid.add_row("touched", f"{answer['touched']:,}")
    grid.add_row("not touched", f"{clear:,} record a library, and none of the advisories asked about applies")
    grid.add_row("not recorded", f"{answer['not_recorded']:,} state no library: they are not cleared")
    out.print(grid)


def _one(item: Mapping[str, Any]) -> None:
    style = "yellow" if item["direction"] == "too_much" else "red"
    out.print(Text.assemble((item["id"], f"bold {style}"), f"  {item['title']}"))
    grid = new_grid()
    grid.add_row("what", item["what"])
    grid.add_row("affected", f"{_versions(item)}. {item['affected']}")
    grid.add_row("charge", _direction(item))
    if item["seen"]:
        grid.add_row("seen", item["seen"])
    grid.add_row("do", Text(item["do"], style="bold"))
    for index, source in enumerate(item["sources"]):
        grid.add_row("sources" if index == 0 else "", f"{source['text']}: {source['url']}")
    out.print(grid)


def _runs(item: Mapping[str, Any]) -> None:
    if not item["runs"]:
        out.print("No run that was read is touched.")
        return
    cells = [
        (
            run["run"],
            run["state"],
            ", ".join(run["datasets"]),
            ", ".join(run["versions"]) or "-",
            "" if run["charged"] is None else number(run["charged"]["mu"]),
            f"possibly: {', '.join(run['unrecorded'])} not recorded" if run["unrecorded"] else "yes",
        )
        for run in item["runs"]
    ]
    columns = ("run", "state", "dataset", item["library"], "charged mu", "touched")
    rows.show(
        rows.Rows(
            columns,
            cells,
            right=("charged mu",),
            ids=("run",),
            texts=("touched", "dataset"),
            drop=("dataset", "state"),
        )
    )
    if item["more"]:
        total = item["certain"] + item["possible"]
        err.print(f"These are {len(item['runs'])} of {total:,}. List more of them: --limit {2 * len(item['runs'])}")


def _versions(item: Mapping[str, Any]) -> str:
    seen = ", ".join(item["seen_in"])
    versions = f"all versions, seen in {seen}" if item["versions"] == "*" and seen else item["versions"]
    return f"{item['library']} {'all versions' if versions == '*' else versions}"


def _direction(item: Mapping[str, Any]) -> str:
    factor = item.get("factor")
    words = DIRECTIONS[item["direction"]]
    return words if factor is None else f"{words}, {number(factor)} times in a known case"
