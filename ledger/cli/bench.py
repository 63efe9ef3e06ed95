"""Measure a deployment over HTTP: bench. It asks for tiny runs of one dataset, and voids or settles them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from ledger.cli import show
from ledger.cli.load import Measured, Target, measure
from ledger.cli.options import Json
from ledger.cli.server_call import print_answer
from ledger.errors import InvalidRequest
from ledger.profiles import connection

CONNECTIONS: Final = 64
TINY: Final = {"type": "gaussian", "noise_multiplier": 1_000_000}
"""Its mu² is 1e-12, the least amount that the ledger counts."""
REASON: Final = "privacy-ledger bench"


def add_to(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(
        rich_help_panel="The server and its database",
        epilog="Example: privacy-ledger bench http://127.0.0.1:8000 --dataset trials --yes",
    )(bench)


def bench(
    url: Annotated[str, typer.Argument(metavar="URL", help="The server, such as http://127.0.0.1:8000.")],
    dataset: Annotated[str, typer.Option(help="The dataset that the runs use. Choose one that is only for this.")],
    runs: Annotated[int, typer.Option(min=1, max=100_000, help="How many runs to ask for in each case.")] = 500,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, spend budget of this dataset.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a server with a requester's key. It spends budget: confirm that with --yes.

    It asks for three times --runs Gaussian runs with noise multiplier 1e6. Two thirds are voided. The others are
    settled, which spends mu² of about 1e-12 each. The journal keeps every entry.
    """
    from ledger.client import Ledger

    if not yes:
        raise InvalidRequest(
            f"bench spends budget: it settles {runs:,} tiny runs of {dataset}, and adds {7 * runs:,} entries to its "
            "journal. Repeat the command with --yes if you want that.",
            field="yes",
        )
    key = connection(url=url).key
    with Ledger(url, key, retries=0) as ledger:
        before = ledger.dataset(dataset)
        cases, voided = asyncio.run(Benchmark(Target(url, key), dataset, runs).measured())
        after = ledger.dataset(dataset)
    spent = [int(shown["balance"]["spent"]["mu_sq_pico"]) for shown in (before, after)]
    answer = {"dataset": dataset, "cases": cases, "voided": voided, "spent_mu_sq_pico": str(spent[1] - spent[0])}
    print_answer(answer, as_json, show.bench.figures)


@dataclass(slots=True)
class Benchmark:
    """The cases, against one server and one dataset."""

    target: Target
    dataset: str
    runs: int
    _held: list[str] = field(default_factory=list, init=False)

    async def measured(self) -> tuple[list[dict[str, Any]], int]:
        """Measure every case. Return the figures, and how many runs were voided. Voids its runs after a failure too."""
        cases = []
        try:
            cases.append(self._case("approve", 1, await self._approve(1)))
            cases.append(self._case("approve", CONNECTIONS, await self._approve(CONNECTIONS)))
            to_settle = len(self._held)
            await self._approve(CONNECTIONS)
            started = self._held[to_settle:]
            del self._held[to_settle:]
            for name in ("start", "settle"):
                took = await self._send(self._moves(started, name, {}))
                cases.append(self._case(name, CONNECTIONS, took))
            paths = {
                "read a run": f"/v1/runs/{started[0]}",
                "read a dataset": f"/v1/datasets/{quote(self.dataset, '')}",
            }
            for name, path in paths.items():
                took = await self._send(self.target.request("GET", path) for _ in range(self.runs))
                cases.append(self._case(name, CONNECTIONS, took))
        finally:
            voided = len(self._held)
            await self._send(self._moves(self._held, "void", {"reason": REASON}))
        return cases, voided

    async def _approve(self, connections: int) -> Measured:
        body = json.dumps({"datasets": [self.dataset], "mechanism": TINY, "purpose": REASON}).encode()
        asks = (self.target.request("POST", "/v1/runs", body) for _ in range(self.runs))
        return await self._send(asks, connections, lambda answer: self._held.append(json.loads(answer)["id"]))

    def _moves(self, runs: list[str], name: str, body: dict[str, Any]) -> Iterator[bytes]:
        content = json.dumps(body).encode()
        return (self.target.request("POST", f"/v1/runs/{run}/{name}", content) for run in runs)

    async def _send(
        self, requests: Iterator[bytes], connections: int = CONNECTIONS, on_body: Callable[[bytes], object] = len
    ) -> Measured:
        return await measure(self.target, requests, connections=connections, on_body=on_body)

    @staticmethod
    def _case(name: str, connections: int, took: Measured) -> dict[str, Any]:
        return {
            "case": name,
            "connections": connections,
            "requests": len(took.times_ms),
            "per_second": took.rate,
            "p50_ms": took.percentile_ms(50),
            "p99_ms": took.percentile_ms(99),
        }
