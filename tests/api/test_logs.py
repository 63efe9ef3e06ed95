"""The log says who asked for what and what came of it, in lines that nobody else can write, and keeps no secret."""

from __future__ import annotations

import io
import json
import logging
import re
import sqlite3
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledger import logs
from ledger.settings import Settings
from tests.api.test_connections import send
from tests.api.test_surface import ones_own_key
from tests.conftest import Templates
from tests.kit.accountant import WAIT_SECONDS_MAX
from tests.kit.driver import MNIST, RELEASE, Ledger, environment, first_keys, past_the_ledger, serve_command

MARK = "kiel-harbour-4711"
"""Stands wherever a caller can write."""


class Lines:
    """What was logged since it was asked last, as it would be written."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    def text(self) -> str:
        return self._stream.getvalue()

    def requests(self) -> list[dict[str, Any]]:
        """The lines of requests, read as JSON."""
        said = [json.loads(line) for line in self.text().splitlines()]
        found = [line for line in said if line["logger"] == "ledger.api.observe"]
        self._stream.seek(0)
        self._stream.truncate()
        return found


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The log of this process, as JSON."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.Json())
    root, ours = logging.getLogger(), logging.getLogger("ledger")
    before = ours.level
    root.addHandler(handler)
    ours.setLevel(logging.INFO)
    yield Lines(stream)
    ours.setLevel(before)
    root.removeHandler(handler)


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone, for what does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


# --- the line of a request -------------------------------------------------------------------------------------------


def test_a_line_for_each_request(here: Ledger, lines: Lines) -> None:
    """Goal: the log tells who asked for what and what came of it. Method: runs approved, repeated, refused."""
    here.register()
    lines.requests()
    run = here.ask(key="a").json()["id"]
    here.ask(key="a")
    refused = here.ask({"type": "gaussian", "noise_multiplier": 0.1}, key="b").json()["run"]
    here.post(f"/v1/runs/{run}/start")
    here.get("/v1/runs/nothing", limit=MARK)
    approved, replayed, too_much, started, wrong = lines.requests()
    for line in (approved, replayed, too_much, started, wrong):
        assert set(line) >= {"time", "level", "message", "request_id", "ms", "tenant", "key", "principal", "role"}
        assert (line["tenant"], line["role"]) == (here.get("/v1/me").json()["tenant"]["id"], "admin")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert 0 < line["ms"] < 60_000
    assert (approved["method"], approved["route"], approved["status"]) == ("POST", "/v1/runs", 201)
    assert (approved["run"], approved["decision"], approved.get("replayed")) == (run, "approved", None)
    assert (replayed["run"], replayed["decision"], replayed["replayed"]) == (run, "approved", True)
    assert (too_much["run"], too_much["decision"], too_much["code"]) == (refused, "refused", "budget-exceeded")
    assert (started["run"], started["route"]) == (run, "/v1/runs/{id}/start")
    assert (wrong["status"], wrong["code"]) == (422, "invalid-request")
    assert len({line["request_id"] for line in (approved, replayed, too_much, started, wrong)}) == 5


def test_a_batch_counts_its_decisions(here: Ledger, lines: Lines) -> None:
    """Goal: a batch's line says how many of each. Method: two that fit, one that does not, one that is no run."""
    here.register()
    lines.requests()
    large = {"type": "gaussian", "noise_multiplier": 0.1}
    runs = [
        {**RELEASE, "idempotency_key": "a"},
        {**RELEASE, "idempotency_key": "b"},
        {**RELEASE, "mechanism": large, "idempotency_key": "c"},
        {"idempotency_key": "d"},
    ]
    assert here.post("/v1/runs/batch", {"runs": runs}).status_code == 200
    (line,) = lines.requests()
    assert (line["approved"], line["refused"]) == (2, 1)


def test_failed_sign_ins(here: Ledger, lines: Lines) -> None:
    """Goal: who failed to sign in stands in the log, with why and from where, and what they sent does not.

    Method: no key, no key's form, a typo, a key of nobody, a token.
    """
    stranger = ones_own_key(here)
    sent = {
        "missing": {},
        "malformed": {"Authorization": f"Basic {MARK}"},
        "unknown": {"Authorization": f"Bearer {stranger}"},
    }
    for reason, headers in sent.items():
        assert here.client.get("/v1/datasets", headers=headers).status_code == 401
        (line,) = lines.requests()
        assert (line["sign_in"], line["client"], line["level"]) == (reason, "testclient", "warning")
        assert line["code"] == "unauthenticated"
        assert not {"tenant", "key", "principal", "role"} & set(line)
    for typo in (stranger[:-1] + "a", stranger + "a", "pbl_", "x.y.z"):
        assert here.client.get("/v1/datasets", headers={"Authorization": f"Bearer {typo}"}).status_code == 401
    assert {line["sign_in"] for line in lines.requests()} <= {"malformed", "unknown"}
    here.register()
    assert "sign_in" not in here.get("/v1/datasets/mnist/export").text


# --- request ids -----------------------------------------------------------------------------------------------------


def test_request_ids(here: Ledger, lines: Lines) -> None:
    """Goal: a caller's id is taken where it is one, and never carries anything else into the log or an answer."""
    for good in ("a", "A-1_b.c:d", "0" * 128, str(uuid.uuid4())):
        assert here.client.get("/healthz", headers={"X-Request-ID": good}).headers["x-request-id"] == good
    bad = ("", " ", "a b", "a" * 129, "a\tb", "a/b", '"', "a,b", here.key, "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.", "é")
    for given in bad:
        made = here.client.get("/healthz", headers={"X-Request-ID": given.encode()}).headers["x-request-id"]
        assert re.fullmatch(r"[0-9a-f]{32}", made)
        assert made != given
    assert all(line["request_id"] not in bad for line in lines.requests())


def test_faults_name_the_request(here: Ledger, lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: who reports a fault names it, and its lines are found. Method: break a service; the trace has it too."""
    state = here.client.app.state
    names = [field.name for field in fields(state.services)]
    broken = type(state.services)(**dict.fromkeys(names) | {"keyring": state.services.keyring})
    monkeypatch.setattr(state, "services", broken)
    answer = here.request("GET", "/v1/datasets", headers={"X-Request-ID": "find-me"})
    assert (answer.status_code, answer.json()["request_id"]) == (500, "find-me")
    assert answer.headers["x-request-id"] == "find-me"
    said = [json.loads(line) for line in lines.text().splitlines()]
    assert [(line["request_id"], line["level"]) for line in said] == [("find-me", "error")] * 2
    assert any("datasets.py" in frame for frame in said[0]["trace"])
    assert "request_id" not in here.client.get("/v1/datasets").json()


# --- nothing else ----------------------------------------------------------------------------------------------------


def _sent_everywhere(ledger: Ledger, keys: list[str]) -> Iterator[Any]:
    """Calls of every kind with the mark in every place, most of which fail."""
    yield ledger.client.get(f"/v1/datasets/{MARK}?{MARK}={MARK}", headers={"X-Request-ID": f"{MARK} {MARK}"})
    for key in keys:
        for scheme in ("Bearer", "bearer", "Basic", MARK):
            for method, path in (("GET", f"/v1/datasets/{MARK}"), ("POST", "/v1/runs"), (MARK.upper(), f"/{MARK}")):
                headers = {"Authorization": f"{scheme} {key}", "Idempotency-Key": MARK, "Cookie": MARK, MARK: MARK}
                yield ledger.client.request(method, path, params={"cursor": MARK, MARK: key}, headers=headers)
    for body in (
        {**MNIST, "name": MARK, "title": MARK, MARK: MARK},
        {**MNIST, "name": MARK, "title": MARK, "description": MARK},
        {**MNIST, "name": MARK, "title": MARK},
    ):
        yield ledger.post("/v1/datasets", body)
    yield ledger.ask(datasets=[MARK], purpose=MARK, labels={MARK: MARK}, code={"repository": MARK, "commit": MARK})
    yield ledger.ask({"type": "gdp", "mu": 50, "evidence": MARK}, datasets=[MARK])
    yield ledger.ask({"type": MARK, MARK: MARK})
    run = ledger.ask(datasets=[MARK], key=MARK).json()["id"]
    yield ledger.post(f"/v1/runs/{run}/start")
    yield ledger.post(f"/v1/runs/{run}/settle", {"evidence": {MARK: MARK}, "steps": 1})
    yield ledger.post(f"/v1/runs/{run}/void", {"reason": MARK})
    yield ledger.post(f"/v1/runs/{MARK}/start")
    yield ledger.delete(f"/v1/datasets/{MARK}")
    for content in (b"{" + MARK.encode(), MARK.encode() * 200_000, b"[" * 100_000, b'{"a":"\\u0000"}'):
        for kind in ("application/json", f"text/{MARK}"):
            yield ledger.request("POST", "/v1/evaluate", content=content, headers={"Content-Type": kind})
    yield ledger.as_("auditor", name=MARK).post("/v1/datasets", {"name": MARK})
    yield ledger.post("/v1/keys", {"name": MARK, "role": MARK})
    yield ledger.get("/v1/runs", dataset=MARK, state=MARK)
    for path in (f"/{MARK}", f"/docs/{MARK}", "/metrics", "/openapi.json"):
        yield ledger.client.get(path, params={MARK: MARK})


def test_secrets_stay_out(ledger: Ledger, database: Settings, lines: Lines) -> None:
    """Goal: neither a key nor anything that a caller wrote gets into the log or a metric, and no key into an answer,
    whatever fails.

    Method: a mark in every header, query, path and body, good and wrong keys in every place of a key; then the same
    with a database that refuses rows by quoting them, and lacks a table.
    """
    other = ledger.as_("requester").key
    keys = [ledger.key, other, ledger.operator_key, ones_own_key(ledger), other[:-1] + "x", f"{MARK}.eyJ.{MARK}"]
    answers = list(_sent_everywhere(ledger, keys))
    assert {answer.status_code for answer in answers} >= {200, 400, 401, 403, 404, 405, 409, 413, 415, 422}
    engine = past_the_ledger(database)
    with engine.execution_options(writing=True).begin() as connection:
        if not database.is_sqlite:
            connection.execute(text("ALTER TABLE datasets ADD CONSTRAINT quoting CHECK (title <> 'fails')"))
        connection.execute(text("ALTER TABLE runs RENAME TO elsewhere"))
    engine.dispose()
    answers.append(ledger.post("/v1/datasets", {**MNIST, "name": f"{MARK}-2", "title": "fails", "description": MARK}))
    answers.append(ledger.ask(datasets=[MARK], purpose=MARK, labels={MARK: MARK}))
    answers.append(ledger.get("/v1/runs", project=MARK))
    assert [answer.status_code for answer in answers[-2:]] == [500, 500]
    metrics = ledger.client.get("/metrics").text
    for where, said in (("log", lines.text()), ("metrics", metrics), *(("fault", a.text) for a in answers[-2:])):
        assert MARK not in said.lower(), where
    said = "\n".join([lines.text(), metrics, *(answer.text + str(answer.headers) for answer in answers)])
    for key in keys[:-1]:
        assert key not in said
        assert key[4:60] not in said
    assert "authorization" not in lines.text().lower()


def test_a_real_process_keeps_secrets(templates: Templates, tmp_path: Path) -> None:
    """Goal: nor does what the server itself says. Method: a real process; whole requests, halves of some, and noise."""
    command = [sys.executable, "-m", "ledger", "serve"]
    with templates.clone("sqlite", tmp_path) as settings:
        first = first_keys(settings)
        env = {**environment(settings), "LEDGER_LOG_FORMAT": "json"}
        with serve_command(command, tmp_path, env) as served, served.client() as client:
            ledger = Ledger(client, first.admin_key, operator_key=first.operator_key)
            list(_sent_everywhere(ledger, [ledger.key, ones_own_key(ledger)]))
            head = f"GET /{MARK} HTTP/1.1\r\nHost: {MARK}\r\nAuthorization: Bearer {ledger.key}\r\n".encode()
            for raw in (head + b"Content-Length: 10\r\n\r\n" + MARK.encode()[:3], head, MARK.encode() + b"\r\n\r\n"):
                send(served.url, raw)
            assert client.get("/healthz").status_code == 200
    for line in served.said:
        json.loads(line)
        assert MARK not in line.lower()
        assert ledger.key not in line
    # Of the others the method is none, so that they never come to the application.
    assert sum('"ledger.api.observe"' in line for line in served.said) > 45


# --- who writes them -------------------------------------------------------------------------------------------------


class Pipe(io.StringIO):
    """A reader of the log that stops reading, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on, self.begun = threading.Event(), threading.Event()
        self.writers: set[str] = set()

    def write(self, text: str) -> int:
        self.writers.add(threading.current_thread().name)
        self.begun.set()
        assert self.goes_on.wait(WAIT_SECONDS_MAX)
        return super().write(text)


def test_nobody_waits_for_who_reads_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whoever logs never waits for the line to be written; what waits is bounded, and what was dropped is
    counted and told. Method: a reader that stops at the first line; as many lines as may wait, and seven more."""
    monkeypatch.setattr(logs, "WAITING_CHARACTERS_MAX", 1000)
    pipe = Pipe()
    handler = logs.Patient(pipe)
    handler.setFormatter(logging.Formatter("%(message)s"))

    def tell(text: str) -> None:
        handler.handle(logging.LogRecord("ledger.x", logging.INFO, "x.py", 1, text, (), None))

    tell("first")
    assert pipe.begun.wait(WAIT_SECONDS_MAX)
    for number in range(107):
        tell(f"{number:010}")
    pipe.goes_on.set()
    handler.close()
    told = "7 lines of the log were dropped: it is read too slowly"
    assert pipe.getvalue().splitlines() == ["first", *(f"{number:010}" for number in range(100)), told]
    assert "ledger-log" in pipe.writers


def test_the_last_lines_are_written() -> None:
    """Goal: what was logged before the process ends is written. Method: a process that logs many lines and ends."""
    program = (
        "import logging, logging.config\nfrom ledger import logs\n"
        "logging.config.dictConfig(logs.configuration('text'))\n"
        "for number in range(1000): logging.getLogger('ledger').info('line %d', number)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert [line.split()[-1] for line in ended.stderr.splitlines()] == [str(number) for number in range(1000)]


# --- formatters ------------------------------------------------------------------------------------------------------


def record_of(message: str, *args: Any, error: BaseException | None = None, **facts: Any) -> logging.LogRecord:
    """What a logger makes of a call."""
    given = (type(error), error, error.__traceback__) if error is not None else None
    record = logging.LogRecord("ledger.x", logging.INFO, "x.py", 1, message, args, given)
    if facts:
        record.facts = facts
    return record


INJECTED = "a\n2026-11-25 03:48:41 INFO    all is well\r\x1b[2K\u2028\u202e\x85\x00\udc80"


@pytest.mark.parametrize("formatter", [logs.Text(), logs.Json()])
def test_nobody_else_writes_lines(formatter: logging.Formatter) -> None:
    """Goal: no text becomes a line, a colour or a change of direction. Method: control characters in every place."""
    for record in (
        record_of(INJECTED),
        record_of("said %s", INJECTED),
        record_of("said", fact=INJECTED),
        record_of("%d", INJECTED),
    ):
        line = formatter.format(record)
        assert line.isprintable()
        line.encode()
    try:
        raise RuntimeError(INJECTED)
    except RuntimeError as error:
        written = formatter.format(record_of("failed", error=error))
    assert all(line.startswith("    ") for line in written.splitlines()[1:])
    assert "all is well" not in written


KEY = "pbl_" + "a2" * 32
TOKEN = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl"


@pytest.mark.parametrize("formatter", [logs.Text(), logs.Json()])
def test_what_looks_like_a_secret_is_blacked_out(formatter: logging.Formatter) -> None:
    """Goal: a secret that a careless line would have is not written. Method: keys, tokens, passwords, in many forms."""
    for secret in (KEY, TOKEN, "Bearer abc", "bearer  abc", "Basic YTpi", "postgresql://ledger:abc@db/ledger"):
        for record in (
            record_of(f"with {secret}, it failed"),
            record_of("with %r", secret),
            record_of("x", fact=secret),
            record_of("%s", {"authorization": secret}),
            record_of("%s", "x" * 7990 + " " + secret),
        ):
            line = formatter.format(record)
            for part in (KEY[4:20], "c2lnbmF0dXJl", "abc", "YTpi"):
                assert part not in line, secret
    assert "pbl_" in formatter.format(record_of("a key is `pbl_` and 64 characters"))


def test_errors_are_brief() -> None:
    """Goal: of an error all that helps and nothing that quotes. Method: errors of each library that quote a value."""
    assert logs.brief(ValueError(MARK)) == "ValueError"
    assert logs.brief(KeyError(MARK)) == "KeyError"
    assert logs.brief(OSError(28, "No space left on device", MARK)) == "OSError: No space left on device"
    assert logs.brief(sqlite3.OperationalError("no such table: runs")) == "OperationalError: no such table: runs"
    unique = psycopg.errors.UniqueViolation(f"duplicate key: ({MARK})")
    assert logs.brief(unique) == "UniqueViolation (23505)"
    wrapped = IntegrityError("INSERT …", {"title": MARK}, unique)
    assert logs.brief(wrapped) == "IntegrityError, UniqueViolation (23505)"
    lost = psycopg.OperationalError('connection to server at "127.0.0.1", port 1 failed: Connection refused')
    assert "Connection refused" in logs.brief(lost)
    line = logs.Json().format(record_of("the database did not answer: %s", wrapped))
    assert MARK not in line
    assert "UniqueViolation" in line


def test_causes_are_told() -> None:
    """Goal: a trace leads to where it began. Method: an error with a cause, one in a circle, one without an end."""

    def fails() -> None:
        try:
            raise KeyError(MARK)
        except KeyError as cause:
            raise RuntimeError(MARK) from cause

    with pytest.raises(RuntimeError) as caught:
        fails()
    told = list(logs.trace(caught.value))
    assert (told[-1], told.count("KeyError")) == ("RuntimeError", 1)
    assert sum(" fails: " in line for line in told) == 2
    caught.value.__cause__ = caught.value
    assert list(logs.trace(caught.value))[-1] == "RuntimeError"
    deep: BaseException = RuntimeError()
    for _ in range(1000):
        deeper = RuntimeError()
        deeper.__cause__ = deep
        deep = deeper
    assert len(list(logs.trace(deep))) == logs.CAUSES_MAX
