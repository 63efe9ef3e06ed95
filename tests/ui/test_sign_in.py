"""Signing in and out, sessions and their ends, through the HTTP client."""

from __future__ import annotations

import base64
from uuid import UUID

import pytest

from ledger.access.sessions import OF_PRINCIPAL_MAX, make_link
from ledger.settings import Settings
from ledger.store import Store
from tests.kit.driver import Ledger
from tests.kit.pages import FORM, Visitor, behind, words_of
from tests.kit.scene import another_tenant, ok


def test_nothing_is_shown_before_signing_in(ledger: Ledger) -> None:
    """Goal: a stranger gets the sign-in page, whatever address they ask for, and then comes to that page. Method: /,
    the overview and a dataset's page without a cookie; sign in with what the form has."""
    visitor = Visitor(ledger)
    assert visitor.get("/").headers["location"] == "/ui"
    assert visitor.get("/ui/").headers["location"] == "/ui"
    asked = visitor.get("/ui?cursor=x")
    assert (asked.status_code, asked.headers["location"]) == (303, "/ui/sign-in?next=%2Fui%3Fcursor%3Dx")
    page = visitor.page(asked.headers["location"])
    assert 'name="next" value="/ui?cursor=x"' in page
    assert visitor.send("/ui/sign-in", key=ledger.key, next="/ui?cursor=x").headers["location"] == "/ui?cursor=x"
    assert "Overview" in visitor.page("/ui")


@pytest.mark.parametrize(
    "path", ["//evil.example/ui", "https://evil.example", "/ui/../v1", "/ui\\evil", "/ui//evil", "/uix", "/ui/sign-in"]
)
def test_signing_in_leads_to_no_other_site(ledger: Ledger, path: str) -> None:
    """Goal: the address after signing in is one of ours. Method: addresses that lead elsewhere."""
    assert Visitor(ledger).send("/ui/sign-in", key=ledger.key, next=path).headers["location"] == "/ui"


def test_a_wrong_key_is_explained(ledger: Ledger) -> None:
    """Goal: who mistypes a key reads why, and it is nowhere in the page. Method: keys that are wrong in each way."""
    visitor = Visitor(ledger)
    typo = ledger.key[:-1] + ("a" if ledger.key[-1] != "a" else "b")
    for key, status, words in (
        (typo, 401, "typo"),
        ("hunter2", 401, "begins with pbl_"),
        ("", 401, "begins with pbl_"),
        (ledger.operator_key, 403, "operator"),
    ):
        answer = visitor.send("/ui/sign-in", key=key)
        assert answer.status_code == status
        assert words in words_of(answer.text)
        assert not key or key not in answer.text
        assert not visitor.cookies


def test_the_cookie_is_kept_from_scripts_and_other_sites(ledger: Ledger) -> None:
    """Goal: no script reads the session, and over HTTPS no other host sets it. Method: the header of both schemes; what
    is sent over plain HTTP to another machine is refused."""
    local = Visitor(ledger).send("/ui/sign-in", key=ledger.key).headers["set-cookie"]
    assert local.startswith("ledger-session=")
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(local.split("; "))
    secure = Visitor(ledger, scheme="https", host="ledger.example").send("/ui/sign-in", key=ledger.key)
    cookie = secure.headers["set-cookie"]
    assert cookie.startswith("__Host-ledger-session=")
    assert {"HttpOnly", "SameSite=lax", "Path=/", "Secure"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    plain = Visitor(ledger, host="ledger.example")
    assert plain.send("/ui/sign-in", key=ledger.key).status_code == 403
    assert "HTTPS" in words_of(plain.page("/ui/sign-in"))
    assert 'name="key"' not in plain.page("/ui/sign-in")


def test_a_session_is_not_what_the_database_has(ledger: Ledger, database: Settings) -> None:
    """Goal: who reads the database cannot sign in. Method: look for the cookie in every column."""
    visitor = Visitor.signed_in(ledger)
    (secret,) = visitor.cookies.values()
    with behind(database) as connection:
        rows = connection.exec_driver_sql("SELECT * FROM sessions").all()
    assert len(rows) == 1
    assert secret not in str(rows)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
    ids=str,
)
def test_no_other_site_sends_a_form(ledger: Ledger, headers: dict[str, str]) -> None:
    """Goal: a page elsewhere neither signs anybody in nor out. Method: origins and sites that are not ours."""
    stranger = Visitor(ledger)
    assert stranger.send("/ui/sign-in", key=ledger.key, headers=headers).status_code == 403
    assert not stranger.cookies
    visitor = Visitor.signed_in(ledger)
    token = visitor.token()
    assert visitor.send("/ui/sign-in/out", csrf=token, headers=headers).status_code == 403
    assert visitor.get("/ui").status_code == 200


def test_a_form_needs_the_token_of_its_session(ledger: Ledger) -> None:
    """Goal: the token of another session, or none, changes nothing. Method: sign out with each."""
    one, two = Visitor.signed_in(ledger), Visitor.signed_in(ledger)
    assert one.token() != two.token()
    for token in ("", "x", two.token(), "\N{GREEK SMALL LETTER EPSILON}"):
        assert one.send("/ui/sign-in/out", csrf=token).status_code == 403
    assert one.get("/ui").status_code == 200


def test_signing_out_ends_the_session_in_the_server(ledger: Ledger) -> None:
    """Goal: a cookie that somebody kept is worth nothing afterwards. Method: sign out, and send it again."""
    visitor = Visitor.signed_in(ledger)
    kept = dict(visitor.cookies)
    assert visitor.send("/ui/sign-in/out", csrf=visitor.token()).headers["location"] == "/ui/sign-in?done=signed-out"
    assert not visitor.cookies
    assert "signed out" in words_of(visitor.page("/ui/sign-in?done=signed-out"))
    visitor.cookies = kept
    answer = visitor.get("/ui")
    assert answer.headers["location"].startswith("/ui/sign-in?")
    assert "done=ended" in answer.headers["location"]


def test_revoking_a_key_ends_its_sessions_at_once(ledger: Ledger) -> None:
    """Goal: no session outlives its key, not even for the half second that keys are remembered. Method: revoke."""
    made = ok(ledger.post("/v1/keys", {"name": "steward", "role": "steward"}))
    visitor = Visitor.signed_in(ledger.with_key(made["secret"]))
    visitor.page("/ui")
    ok(ledger.delete(f"/v1/keys/{made['id']}"))
    assert visitor.get("/ui").status_code == 303
    assert visitor.send("/ui/approvals/x/approve", csrf="x").status_code == 401


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE sessions SET used_us = used_us - 3600000000",
        "UPDATE sessions SET expires_us = used_us - 1",
        "UPDATE keys SET expires_us = 1",
    ],
    ids=["idle", "absolute", "key"],
)
def test_sessions_end_by_themselves(ledger: Ledger, database: Settings, change: str) -> None:
    """Goal: a session ends without use, at its limit, and with its key. Method: move its times in the database."""
    visitor = Visitor.signed_in(ledger)
    visitor.page("/ui")
    with behind(database) as connection:
        connection.exec_driver_sql(change)
    assert visitor.get("/ui").status_code == 303
    assert visitor.send("/ui/approvals/x/approve", csrf="x").status_code == 401


def test_a_use_is_noted_each_minute(ledger: Ledger, database: Settings) -> None:
    """Goal: pages keep a session alive, and not every one writes. Method: the noted time, as it is and a while ago."""
    visitor = Visitor.signed_in(ledger)

    def used() -> int:
        with behind(database) as connection:
            return int(connection.exec_driver_sql("SELECT used_us FROM sessions").scalar_one())

    begun = used()
    visitor.page("/ui")
    assert used() == begun
    with behind(database) as connection:
        connection.exec_driver_sql("UPDATE sessions SET used_us = used_us - 61000000")
    visitor.page("/ui")
    assert used() > begun


def test_sessions_of_a_principal_are_bounded(ledger: Ledger) -> None:
    """Goal: signing in again and again fills no table, and ends the oldest. Method: one more than the bound."""
    first = Visitor.signed_in(ledger)
    others = [Visitor.signed_in(ledger) for _ in range(OF_PRINCIPAL_MAX)]
    assert first.get("/ui").status_code == 303
    assert {other.get("/ui").status_code for other in others} == {200}


def test_a_link_signs_in_once(ledger: Ledger, store: Store, database: Settings) -> None:
    """Goal: the link of a start works once, for 15 minutes, as the oldest admin. Method: use it twice; look at it with
    HEAD before; another one too late; one whose key is revoked."""
    tenant = UUID(ok(ledger.get("/v1/me"))["tenant"]["id"])
    link = make_link(store, tenant)
    assert link is not None
    visitor = Visitor(ledger)
    path = f"/ui/sign-in/once/{link}"
    assert visitor.get(path, method="HEAD").status_code == 204
    assert visitor.get(path).headers["location"] == "/ui"
    assert "admin" in words_of(visitor.page("/ui"))
    assert visitor.get(path).status_code == 401
    late = make_link(store, tenant)
    with behind(database) as connection:
        connection.exec_driver_sql("UPDATE sessions SET expires_us = 1 WHERE kind = 'link'")
    answer = Visitor(ledger).get(f"/ui/sign-in/once/{late}")
    assert answer.status_code == 401
    assert "15 minutes" in words_of(answer.text)
    other = make_link(store, tenant)
    with behind(database) as connection:
        connection.exec_driver_sql("UPDATE keys SET revoked_us = 1")
    assert Visitor(ledger).get(f"/ui/sign-in/once/{other}").status_code == 401
    assert make_link(store, tenant) is None


def test_a_link_is_no_session_and_a_session_no_link(ledger: Ledger, store: Store) -> None:
    """Goal: the two secrets are of different kinds. Method: each in the place of the other."""
    tenant = UUID(ok(ledger.get("/v1/me"))["tenant"]["id"])
    link = str(make_link(store, tenant))
    visitor = Visitor.signed_in(ledger)
    (name,) = visitor.cookies
    session = visitor.cookies[name]
    assert Visitor(ledger).get(f"/ui/sign-in/once/{session.replace('pbs_', 'pbo_')}").status_code == 401
    visitor.cookies[name] = link.replace("pbo_", "pbs_")
    assert visitor.get("/ui").status_code == 303


def test_a_guessed_link_takes_no_lock(ledger: Ledger, database: Settings) -> None:
    """Goal: nobody without a key makes decisions wait. Method: a guess while the database is locked for writing."""
    if not database.is_sqlite:
        pytest.skip("a transaction of PostgreSQL locks nothing before it writes")
    guess = "pbo_" + base64.urlsafe_b64encode(UUID(ok(ledger.get("/v1/me"))["tenant"]["id"]).bytes + bytes(32)).decode()
    with behind(database) as connection:
        connection.exec_driver_sql("UPDATE keys SET revoked_us = NULL")
        assert Visitor(ledger).get(f"/ui/sign-in/once/{guess}").status_code == 401


BROKEN = {
    "empty": "",
    "prefix": "pbs_",
    "no prefix": "x" * 68,
    "no tenant": "pbs_" + "A" * 64,
    "no base64": "pbs_" + "!" * 64,
    "long": "a" * 9000,
}


@pytest.mark.parametrize("secret", BROKEN.values(), ids=BROKEN)
def test_a_broken_cookie_is_no_session(ledger: Ledger, secret: str) -> None:
    """Goal: whatever a cookie has, a stranger is a stranger. Method: texts that are no secret, or of no tenant."""
    visitor = Visitor(ledger)
    visitor.cookies["ledger-session"] = secret
    assert visitor.get("/ui").status_code == 303


def test_tenants_see_their_own_name(ledger: Ledger) -> None:
    """Goal: the pages are of the tenant of the key. Method: two tenants at once."""
    other = another_tenant(ledger)
    assert "acme" in words_of(Visitor.signed_in(ledger).page("/ui"))
    page = words_of(Visitor.signed_in(other).page("/ui"))
    assert "globex" in page
    assert "acme" not in page


def test_hostile_forms_are_answered(ledger: Ledger) -> None:
    """Goal: a form that is no form is rejected in words, and no large one is held. Method: each kind of wrong body."""
    visitor = Visitor.signed_in(ledger)
    stated = {"origin": visitor.origin}
    bodies = [
        (b"key=%ff", FORM, 422),
        (b"a=1&a=2", FORM, 422),
        (b"&".join(b"a%d=1" % number for number in range(200)), FORM, 422),
        (b"key=" + b"x" * 70_000, FORM, 413),
        (b"{}", {"content-type": "application/json"}, 422),
        (b"\xff", FORM, 422),
    ]
    for body, headers, status in bodies:
        answer = ledger.client.request(
            "POST", f"{visitor.origin}/ui/sign-in", content=body, headers={**stated, **headers}
        )
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"].startswith("text/html")
