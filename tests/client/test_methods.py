"""Every call of the client: its example, its types, its pages, and where its arguments arrive."""

from __future__ import annotations

import asyncio
import doctest
import functools
import io
from collections.abc import AsyncIterator, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

import httpx
import pytest

from ledger import errors
from ledger.client import (
    AsyncLedger,
    Gaussian,
    Overrun,
    ProposalState,
    PureDP,
    Run,
    Unreachable,
    verify_attestation,
    verify_receipt,
)
from ledger.client import Ledger as Client
from ledger.client.methods import Methods
from tests.kit.clients import KEY, RELEASE, URL, Bridge, answering, connect, connect_async, died, problem
from tests.kit.driver import Ledger


def test_every_call_does_what_its_example_says(ledger: Ledger, client: Client) -> None:
    """Goal: each method works against the real application, and its documentation is true. Method: the docstrings'
    examples, in the order of the classes by noun, as one session; a method without an example is a failure."""
    known: dict[str, Any] = {"ledger": client, "operator": connect(ledger.with_key(ledger.operator_key))}
    known.update(Gaussian=Gaussian, PureDP=PureDP, url=URL, key=ledger.key, file=io.BytesIO())
    known["verify_receipt"], known["RunState"] = verify_receipt, errors.RunState
    known["verify_attestation"] = verify_attestation
    known["second"] = connect(ledger.as_("steward"))
    known["Ledger"] = functools.partial(Client, transport=Bridge(ledger))
    runner = doctest.DocTestRunner(verbose=False)
    nouns = Methods.__bases__
    methods = {
        name: value for noun in nouns for name, value in vars(noun).items() if callable(value) and name[0] != "_"
    }
    assert len(methods) == 64
    for name, documented in {**methods, "Ledger": Client}.items():
        example = doctest.DocTestParser().get_doctest(documented.__doc__ or "", known, name, None, None)
        assert example.examples, f"{name} has no example"
        example.globs = known
        said: list[str] = []
        runner.run(example, out=said.append, clear_globs=False)
        assert not said, "".join(said)


def test_a_training_job_has_its_receipt_before_it_begins(client: Client) -> None:
    """Goal: inside `ledger.run(…)` the receipt of the start is at hand, and good for this job; it can be renewed; a
    process that goes on under the key has a new one, also if the first one is over by then; a voided run has none."""
    keys = client.jwks()
    with client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="job") as run:
        assert run.receipt is not None
        assert (renewed := client.receipt(run.id))["begin_by"] > str(run.begin_by)
        assert verify_receipt(renewed["receipt"], jwks=keys, datasets="mnist", run=run.id).state == "started"
        found = verify_receipt(run.receipt, jwks=keys, datasets="mnist", run=run.id, mechanism=RELEASE)
        assert found.state == "started"
        with pytest.raises(errors.RunState, match="started by another process"):
            client.start(run.id)
        died(run)
        again = client.run(datasets=["mnist"], mechanism=RELEASE, idempotency_key="job").__enter__()
        assert (again.id, again.is_resumed) == (run.id, True)
        assert again.receipt is not None
        assert verify_receipt(again.receipt, jwks=keys).begin_by.isoformat() > str(run.begin_by)
    voided = client.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
    client.void(voided, reason="not needed")
    with pytest.raises(errors.RunState):
        client.receipt(voided)


def test_answers_are_typed_for_both_clients(client: Client, ledger: Ledger) -> None:
    """Goal: mypy knows what each client returns. Method: `assert_type`, which mypy checks in this file; the values are
    looked at too."""
    assert assert_type(client.dataset("mnist"), dict[str, Any])["name"] == "mnist"
    assert next(assert_type(client.datasets(), Iterator[dict[str, Any]]))["name"] == "mnist"

    async def look() -> None:
        async with connect_async(ledger) as opened:
            shown = assert_type(opened.dataset("mnist"), Coroutine[Any, Any, dict[str, Any]])
            assert (await shown)["name"] == "mnist"
            found = assert_type(opened.datasets(), AsyncIterator[dict[str, Any]])
            assert [item["name"] async for item in found] == ["mnist"]
            made = await opened.make_key(name="k", role="auditor")
            assert assert_type(await opened.revoke_key(made["id"]), None) is None
            async with opened.run(datasets=["mnist"], mechanism=RELEASE) as run:
                assert_type(run, Run)

    asyncio.run(look())


def test_lists_go_through_all_pages(ledger: Ledger, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: iterating gives every item once, whatever the size of a page. Method: pages of two, five runs."""
    monkeypatch.setattr("ledger.client.calls.PAGE_LIMIT", 2)
    asked = [client.ask(datasets=["mnist"], mechanism=RELEASE)["id"] for _ in range(5)]
    client.void(asked[0], reason="not needed")
    assert [run["id"] for run in client.runs()] == asked[::-1]
    assert [run["id"] for run in client.runs(state="voided", dataset="mnist", overdue=False)] == [asked[0]]
    assert [item["seq"] for item in client.entries("mnist")] == list(range(1, 8))

    async def look() -> list[str]:
        async with connect_async(ledger) as opened:
            return [run["id"] async for run in opened.runs()]

    assert asyncio.run(look()) == asked[::-1]


def test_all_that_a_run_can_say_arrives(client: Client) -> None:
    """Goal: every argument of `ask` and every form of its values reaches the ledger as the contract has it."""
    asked = client.ask(
        datasets=[{"name": "mnist"}],
        mechanism={"type": "laplace", "noise_multiplier": 20, "count": 2},
        delta=1e-9,
        segments=1,
        purpose="a count",
        labels={"team": "a"},
        code={"repository": "r", "commit": "c"},
        valid_for=timedelta(hours=36),
        idempotency_key="one",
    )
    shown = client.run_info(asked["id"])
    assert shown["request"] == {
        "datasets": [{"name": "mnist"}],
        "mechanism": {"type": "laplace", "noise_multiplier": 20, "count": 2},
        "delta": 1e-9,
        "segments": 1,
        "purpose": "a count",
        "labels": {"team": "a"},
        "code": {"repository": "r", "commit": "c"},
        "valid_for": "PT129600S",
    }
    start_by, created = (datetime.fromisoformat(shown[name]) for name in ("start_by", "created_at"))
    assert timedelta(hours=35) < start_by - created < timedelta(hours=37)
    assert client.make_key(name="k", role="auditor", expires_at=datetime(2200, 1, 1, tzinfo=UTC))["expires_at"]


def test_names_stay_in_their_place(client: Client) -> None:
    """Goal: a name is one part of a path, whatever is in it."""
    for name in ["a/b", "../keys", "mnist?limit=1", "mnist#", "%2e%2e", "ü", "a b"]:
        with pytest.raises(errors.NotFound):
            client.dataset(name)


EXPORT = [b'{"format":"privacy-ledger-export"}\n', b'{"seq":1}\n' * 20_000, b'{"head":{"seq":20000}}\n']


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """Some of a body, and then nothing more."""

    def __iter__(self) -> Iterator[bytes]:
        yield EXPORT[0]
        raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


def exporting(request: httpx.Request) -> httpx.Response:
    """A server that exports `mnist` and the tenant's own journal, breaks off in `torn`, and knows no more."""
    match request.url.path:
        case "/v1/datasets/mnist/export" | "/v1/export":
            return httpx.Response(200, stream=Whole())
        case "/v1/datasets/torn/export":
            return httpx.Response(200, stream=Broken())
        case _:
            return problem("not-found", 404)


class Whole(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in several pieces."""

    def __iter__(self) -> Iterator[bytes]:
        yield from EXPORT

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in EXPORT:
            yield chunk


def test_an_export_is_streamed_to_a_file(tmp_path: Path) -> None:
    """Goal: the bytes of the answer stand in the file, and one that broke off is an error, with sync and async."""
    with answering(exporting) as opened, (tmp_path / "journal.jsonl").open("wb") as file:
        assert opened.export("mnist", file) == file.tell() == sum(map(len, EXPORT))
        assert opened.export_tenant(io.BytesIO()) == file.tell()
        with pytest.raises(errors.NotFound):
            opened.export("nothing", file)
        with pytest.raises(Unreachable, match=f"after {len(EXPORT[0])} bytes"):
            opened.export("torn", file)
    assert (tmp_path / "journal.jsonl").read_bytes() == b"".join(EXPORT) + EXPORT[0]

    async def export(name: str | None, file: io.BytesIO) -> int:
        async with AsyncLedger(URL, KEY, transport=httpx.MockTransport(exporting)) as opened:
            return await (opened.export_tenant(file) if name is None else opened.export(name, file))

    for name in ("mnist", None):
        written = io.BytesIO()
        assert asyncio.run(export(name, written)) == sum(map(len, EXPORT))
        assert written.getvalue() == b"".join(EXPORT)
    with pytest.raises(Unreachable, match="broke off"):
        asyncio.run(export("torn", io.BytesIO()))


def test_what_takes_two_people(ledger: Ledger, client: Client) -> None:
    """Goal: under the policy each guarded call answers with its proposal and changes nothing; a second steward's client
    does it, or says no, and what can be answered no more is its exception. Method: all three calls, both answers."""
    client.set_policy(second_steward=True, reason="two pairs of eyes")
    with connect(ledger.as_("steward")) as second, connect(ledger.as_("requester")) as job:
        raised = client.set_budget("mnist", budget={"mu": 2}, reason="more")["proposal"]
        assert client.dataset("mnist")["balance"]["limit"]["mu"] == 1
        with pytest.raises(errors.Forbidden, match="second person"):
            client.approve(raised["id"])
        with pytest.raises(errors.Forbidden, match="second person"):
            client.refuse(raised["id"], reason="no")
        assert second.approve(raised["id"])["balance"]["limit"]["mu"] == 2
        with pytest.raises(ProposalState) as caught:
            second.approve(raised["id"])
        assert (caught.value.code, caught.value.facts["state"]) == ("proposal-state", "approved")

        run = job.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
        job.start(run)
        void = client.void(run, reason="nobody looked")["proposal"]
        assert (void["what"], void["run"], client.run_info(run)["state"]) == ("void", run, "started")
        assert second.refuse(void["id"], reason="it was looked at")["state"] == "refused"
        again = client.void(run, reason="nobody looked")["proposal"]
        assert second.approve(again["id"])["state"] == "voided"

        run = job.ask(datasets=["mnist"], mechanism=RELEASE)["id"]
        job.start(run)
        with pytest.raises(Overrun):
            job.settle(run, steps=101)
        thaw = client.change("mnist", state="active", reason="looked at")["proposal"]
        assert [found["id"] for found in second.proposals(state="open")] == [thaw["id"]]
        assert client.dataset("mnist")["state"] == "frozen"
        assert second.approve(thaw["id"])["state"] == "active"
        with pytest.raises(errors.NotFound):
            second.proposal("00000000-0000-4000-8000-000000000000")


def test_a_rotated_key_goes_on(ledger: Ledger, client: Client) -> None:
    """Goal: a job whose key is rotated ends its run with the new one, within the limits of the old. Method: start with
    one, rotate it without overlap, settle with the other; the old one is refused, and the clients say who they are."""
    client.set_project("mnist", "ranking", budget={"mu": 0.5})
    made = client.make_key(name="job", role="requester", datasets=["mnist"], projects=["ranking"])
    with connect(ledger.with_key(made["secret"])) as old:
        run = old.ask(datasets=["mnist"], mechanism=RELEASE, project="ranking")["id"]
        old.start(run)
        rotated = client.rotate_key(made["id"], overlap=timedelta())
        with connect(ledger.with_key(rotated["secret"])) as new:
            assert new.settle(run)["state"] == "settled"
            shown = new.me()
            assert (shown["name"], shown["role"], shown["projects"]) == ("job", "requester", ["ranking"])
            assert (shown["principal"], shown["tenant"]["name"]) == (made["principal"], ledger.tenant)
    with connect(ledger.with_key(made["secret"])) as late, pytest.raises(errors.Unauthenticated):
        late.start(run)
