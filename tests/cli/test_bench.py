"""`privacy-ledger bench` against a real server: what it asks for, what it spends, and what it leaves behind."""

from __future__ import annotations

import asyncio
import os
from collections import Counter

import pytest

from ledger.cli.load import Target, measure
from tests.kit.driver import Terminal

CASES = ["approve", "approve", "start", "settle", "read a run", "read a dataset"]


def test_the_bench_voids_or_settles_all_of_its_runs(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a measurement spends what it states, and holds nothing. Method: a requester's key; the journal and the
    balance afterwards."""
    terminal("dataset create trials --mu 1 --bound clt")
    key = terminal("key create laptop --role requester --json").json["secret"]
    monkeypatch.setenv("LEDGER_KEY", key)
    before = terminal("dataset show trials --json").json
    found = terminal(f"bench {os.environ['LEDGER_URL']} --dataset trials --runs 3 --yes --json")
    assert found.status == 0, found.err
    assert [case["case"] for case in found.json["cases"]] == CASES
    assert [case["connections"] for case in found.json["cases"]] == [1, 64, 64, 64, 64, 64]
    assert {case["requests"] for case in found.json["cases"]} == {3}
    assert (found.json["voided"], found.json["spent_mu_sq_pico"]) == (6, "3")
    after = terminal("dataset show trials --json").json
    assert int(after["balance"]["held"]["mu_sq_pico"]) == 0
    assert after["seq"] - before["seq"] == 7 * 3
    states = Counter(run["state"] for run in terminal("runs --dataset trials --json").json["items"])
    assert states == {"voided": 6, "settled": 3}


def test_the_bench_asks_before_it_spends(terminal: Terminal) -> None:
    """Goal: nobody spends budget by mistake. Method: without --yes; the journal stays as it is."""
    terminal("dataset create trials --mu 1 --bound clt")
    before = terminal("dataset show trials --json").json["seq"]
    found = terminal(f"bench {os.environ['LEDGER_URL']} --dataset trials --runs 3")
    assert (found.status, "spends budget" in found.err, "--yes" in found.err) == (2, True, True)
    assert terminal("dataset show trials --json").json["seq"] == before


def test_a_refused_bench_voids_what_was_approved(terminal: Terminal) -> None:
    """Goal: a measurement that fails leaves nothing held, and shows the server's answer. Method: a budget in which
    only some of its runs fit."""
    terminal("dataset create trials --mu 0.000002 --bound clt")
    found = terminal(f"bench {os.environ['LEDGER_URL']} --dataset trials --runs 5 --yes")
    assert found.status == 1
    assert "budget-exceeded" in found.err
    assert terminal("dataset show trials --json").json["balance"]["held"]["mu_sq_pico"] == "0"
    states = Counter(run["state"] for run in terminal("runs --dataset trials --json").json["items"])
    assert states == {"voided": 4, "refused": 1}


def test_figures_for_a_person(terminal: Terminal) -> None:
    """Goal: the table has a row for each case, and the cost below it."""
    terminal("dataset create trials --mu 1 --bound clt")
    found = terminal(f"bench {os.environ['LEDGER_URL']} --dataset trials --runs 2 --yes")
    assert found.status == 0, found.err
    head, *rows, cost = found.out.splitlines()
    assert head.split() == ["case", "connections", "requests", "a", "second", "p50,", "ms", "p99,", "ms"]
    assert [row.rsplit(maxsplit=5)[0] for row in rows] == CASES
    assert cost == "trials: 4 runs voided, mu² spent (1e-12): 2"


def test_connections_are_kept_and_opened_again() -> None:
    """Goal: what is measured is requests, not handshakes, and a closed connection does no harm. Method: a server that
    counts connections, and closes each after its third answer."""
    opened, served = [0], [0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened[0] += 1
        for left in (2, 1, 0):
            if not await reader.readuntil(b"\r\n\r\n"):
                break
            served[0] += 1
            close = b"" if left else b"Connection: close\r\n"
            writer.write(b"HTTP/1.1 200 OK\r\n" + close + b"Content-Length: 2\r\n\r\nok")
        writer.close()

    async def count() -> int:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            target = Target(f"http://127.0.0.1:{port}", "key")
            requests = (target.request("GET", "/") for _ in range(6))
            return len((await measure(target, requests, connections=1)).times_ms)

    assert asyncio.run(count()) == 6
    assert (opened[0], served[0]) == (2, 6)
