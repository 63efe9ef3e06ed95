"""Print what a server was measured to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ledger.cli.show.console import counted, new_table, out

_FIGURES = ("connections", "requests", "a second", "p50, ms", "p99, ms")


def figures(answer: Mapping[str, Any]) -> None:
    """Print a row for each case, and what it cost."""
    table = new_table("case", *_FIGURES, right=_FIGURES)
    for case in answer["cases"]:
        table.add_row(
            case["case"],
            str(case["connections"]),
            f"{case['requests']:,}",
            f"{case['per_second']:,.0f}",
            f"{case['p50_ms']:.1f}",
            f"{case['p99_ms']:.1f}",
        )
    out.print(table)
    spent = int(answer["spent_mu_sq_pico"])
    out.print(f"{answer['dataset']}: {counted(answer['voided'], 'run')} voided, mu² spent (1e-12): {spent:,}")
