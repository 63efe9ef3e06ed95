"""Headers, paths and queries that mean harm, or nothing: they are refused by name, and leave no trace."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from tests.kit.hostile import DATASET, MECHANISMS, RUN, SEED, Call, Target, calls, problem_of


def test_idempotency_keys(target: Target) -> None:
    """Goal: only 1 to 255 visible ASCII characters are a key. Method: send others, and then the longest that is one."""
    body = json.dumps(RUN).encode()
    bad: tuple[bytes | None, ...] = (
        *(None, b"", b" ", b"a b", b"\t", b"\x7f", b"\x01", b"\xe9", "é".encode(), "鍵".encode(), "🔑".encode()),
        *(b"k" * 256, b"k" * 9000, b"a,b c"),
    )
    for key in bad:
        problem = problem_of(target.send(Call("POST", "/v1/runs", RUN), body, **{"Idempotency-Key": key}))
        assert (problem["code"], problem["field"]) == ("idempotency-key-missing", "Idempotency-Key"), key
    assert target.is_untouched()
    for key in (b"k" * 255, b"!", b"~", b"' OR 1=1; --".replace(b" ", b"+"), b"%00", b"../..", b'"quoted"'):
        assert target.send(Call("POST", "/v1/runs", RUN), body, **{"Idempotency-Key": key}).status_code == 201, key


CONTENT_TYPES = (
    *("text/plain", "text/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json", "*/*"),
    *(
        "application/json5",
        "application/vnd.api+json",
        "application/xml",
        "application",
        "application/json, text/plain",
    ),
)


def test_content_types(reader: Target) -> None:
    """Goal: only application/json is read as JSON. Method: send each valid body under other types, and under none."""
    for call in calls():
        body = json.dumps(call.body).encode()
        for kind in (*CONTENT_TYPES, "application/é".encode(), None):
            problem = problem_of(reader.send(call, body, **{"Content-Type": kind}))
            assert problem["code"] == "unsupported-media-type", (call, kind)
    assert reader.is_untouched()
    call = Call("POST", "/v1/evaluate", {"mechanism": MECHANISMS["gaussian"]})
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/json;", " application/json "):
        assert reader.send(call, json.dumps(call.body).encode(), **{"Content-Type": kind}).status_code == 200, kind


def test_authorization(target: Target) -> None:
    """Goal: nothing but one whole key opens anything. Method: send headers that are nearly one, to reads and writes."""
    key = target.ledger.key.encode()
    junk = (
        *(b"", b"Bearer", b"Bearer ", b"Bearer  ", b"Basic " + key, b"Token " + key, key, b"Bearer" + key),
        *(b"Bearer " + key + b" x", b"Bearer x " + key, b"Bearer " + key + b", Bearer " + key, b"Bearer " + key * 2),
        *(
            b"Bearer " + key.upper(),
            b"Bearer " + key[:-1],
            b"Bearer " + key + b"a",
            b"Bearer pbl_",
            b"Bearer " + key[4:],
        ),
        *(b"Bearer " + b"x" * 9000, b"Bearer pbl_" + b"0" * 64, b"Bearer pbl_" + b"=" * 64, b"Bearer pbl_" + b"a" * 64),
        *(b"Bearer pbl_" + "\u07ff".encode() * 32, b"Bearer pbl_\x00" + b"a" * 63, b"Bearer \xff\xfe"),
    )
    for header in junk:
        for method, path in (
            ("GET", "/v1/datasets"),
            ("POST", "/v1/datasets"),
            ("POST", "/v1/tenants"),
            ("GET", "/v1/x"),
        ):
            headers: Any = {"Authorization": header}
            answer = target.ledger.request(method, path, headers=headers, json=DATASET if method == "POST" else None)
            assert problem_of(answer)["code"] == "unauthenticated", header
            assert answer.headers["www-authenticate"].startswith("Bearer")
    assert target.is_untouched()


# --- paths and queries -----------------------------------------------------------------------------------------------


HOSTILE_NAMES = (
    *("%00", "mnist%00", "%0a", "mnist%0A", "%ff", "%ed%a0%80", "%F0%9F%92%A3", "Mnist", "mnist%20", "..", "%2e%2e%2f"),
    *("..%2fmnist", "mnist%2fbudget", "mnist;a=b", "'%20OR%201=1--", "%25", "%", "*", "_", "%c0%af", "a" * 9000),
    *("%E5%90%8D", "null", "-1", "1e400", "%7B%7D", "%5B%5D", "mnist%00.json"),
)
HOSTILE_IDS = (*HOSTILE_NAMES, "0", "00000000-0000-0000-0000-000000000000", "f" * 32, "g" * 32, "1" * 4000, "{id}%00")


def test_names_and_ids_in_paths(target: Target) -> None:
    """Goal: a path finds what it names or nothing. Method: ask each path that names a thing for hostile names of it."""
    change = {"state": "frozen", "reason": "r"}
    budget = {"budget": {"mu": 2}, "reason": "r"}
    for name in HOSTILE_NAMES:
        answers = [
            target.ledger.get(f"/v1/datasets/{name}{rest}")
            for rest in ("", "/entries", "/head", "/export", "/forecast")
        ]
        answers.append(target.ledger.patch(f"/v1/datasets/{name}", change))
        answers.append(target.ledger.put(f"/v1/datasets/{name}/budget", budget))
        for answer in answers:
            if name == "..":  # which the client takes out of the path, so that it is another one
                continue
            assert problem_of(answer)["code"] in ("not-found", "method-not-allowed"), (name, answer.request.url)
    verbs = (("start", {"token": "t"}), ("void", {"reason": "r"}))
    for wrong in HOSTILE_IDS:
        id_ = wrong.replace("{id}", target.run)
        answers = [target.ledger.post(f"/v1/runs/{id_}/{verb}", body) for verb, body in verbs]
        answers += [target.ledger.post(f"/v1/runs/{id_}/settle", {}), target.ledger.get(f"/v1/runs/{id_}")]
        answers.append(target.ledger.delete(f"/v1/keys/{id_}"))
        for answer in answers:
            if wrong == "..":
                continue
            problem = problem_of(answer)
            assert problem["code"] in ("not-found", "method-not-allowed") or problem["field"] == "id", (wrong, problem)
    assert target.is_untouched()


LISTS = ("/v1/datasets", "/v1/datasets/mnist/entries", "/v1/runs", "/v1/keys", "/v1/alerts")
NO_UUID = "0" * 31


def encoded(text: str) -> str:
    """A cursor as the ledger itself would write it, with this inside."""
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")


CURSORS = (
    *("", " ", "x", "é", "=", "====", "a" * 500, "a" * 501, "a" * 9000, "////", "\x00", "%00", "null"),
    *map(
        encoded, ("null", "true", "1.5", "-1", "{}", "[]", "[1]", "[[]]", '"\\ud800"', '"\\u0000"', "NaN", "1e400", "x")
    ),
    *map(
        encoded,
        (str(2**63), "9" * 350, "[" * 350, '{"a":' * 60, f'[1,"{NO_UUID}"]', '["1","2"]', '[true,"x"]', "[null,null]"),
    ),
    *map(encoded, ('[1,["x"]]', '{"0":1,"1":"x"}', f'[{2**63},"{NO_UUID}0"]', f'[-1,"{NO_UUID}0"]', '"\\u00e9"')),
)


def test_queries(target: Target) -> None:
    """Goal: a query that means nothing is refused by the name of its parameter, never taken for another.

    Method: limits, cursors and filters of wrong kinds, sizes and shapes, to each list.
    """
    limits = (
        "0",
        "-1",
        "1001",
        "abc",
        "1e3",
        "1.5",
        "",
        "9" * 400,
        "9" * 5000,
        "0x10",
        "NaN",
        "null",
        "\uff11",
        "\x00",
    )
    for path in LISTS:
        for limit in limits:
            problem = problem_of(target.ledger.get(path, limit=limit))
            assert (problem["code"], problem["field"]) == ("invalid-request", "limit"), (path, limit)
        for cursor in CURSORS:
            problem = problem_of(target.ledger.get(path, cursor=cursor))
            assert (problem["code"], problem["field"]) == ("invalid-request", "cursor"), (path, cursor)
    noise = random.Random(SEED)
    for path in LISTS:
        for _ in range(50):
            cursor = base64.urlsafe_b64encode(noise.randbytes(noise.randrange(1, 60))).decode()
            answer = target.ledger.get(path, cursor=cursor)
            assert answer.status_code == 200 or problem_of(answer)["field"] == "cursor", cursor
    filters = {
        "state": ("", "HELD", "held,started", "x" * 9000, "\x00", "1"),
        "dataset": ("", "MNIST", "é", "mnist\n", "mnist\x00", "x" * 9000, "../mnist"),
        "overdue": ("", "maybe", "2", "\x00", "null"),
        "project": ("", "Ranking", "x" * 64, "ranking\x00", "ranking,other"),
    }
    for name, values in filters.items():
        for value in values:
            problem = problem_of(target.ledger.get("/v1/runs", **{name: value}))
            assert (problem["code"], problem["field"]) == ("invalid-request", name), value
    assert target.is_untouched()
