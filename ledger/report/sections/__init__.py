"""The sections of a report, as blocks in reading order: headings, sentences, tables and figures.

HTML and PDF are made from these alone, so they have the same contents. Numbers are shown with a few digits, rounded up
if they are what an attacker gains, next to the exact integers.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.report.blocks import Block
from ledger.report.sections.balances import accounts, datasets
from ledger.report.sections.basis import assumptions, changes, heads, recompute
from ledger.report.sections.bounds import bounded
from ledger.report.sections.plain import sign_off
from ledger.report.sections.runs import corrections, details, overdue, overruns, refusals, runs, voids
from ledger.report.sections.verdict import verdict_blocks
from ledger.report.view import View


def blocks(view: View) -> Iterator[Block]:
    """Return all blocks after the first page, with long texts cut."""
    yield from bounded(_blocks(view))


def _blocks(view: View) -> Iterator[Block]:
    yield from verdict_blocks(view.document)
    yield from datasets(view)
    yield from accounts(view)
    yield from runs(view)
    yield from refusals(view)
    yield from overruns(view)
    yield from corrections(view)
    yield from overdue(view)
    yield from voids(view)
    yield from changes(view)
    yield from assumptions(view.document)
    yield from heads(view.document)
    yield from recompute(view.document)
    yield from details(view)
    yield from sign_off()
