"""The documentation site, as the server shows it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.api import guide
from tests.conftest import Templates
from tests.kit.driver import Ledger

SCRIPT = "document.body.dataset.x = new URL('..', location)"
PAGE = f"""<html><head><link rel="stylesheet" href="../a.css"></head><body>
<script src="../a.js"></script><script>{SCRIPT}</script><script type="application/json">{{"data": 1}}</script>
</body></html>"""


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone: the database has no part in this."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small site where the built one would be, with a secret beside it."""
    folder = tmp_path / "site"
    (folder / "part").mkdir(parents=True)
    (folder / "index.html").write_text("<h1>Front</h1>")
    (folder / "part" / "page.html").write_text(PAGE)
    (folder / "a.css").write_text("h1 {}")
    (folder / "a.js").write_text("1")
    (tmp_path / "secret.html").write_text("secret")
    monkeypatch.setattr(guide, "SITE", folder)
    return folder


def test_the_front_page(here: Ledger, site: Path) -> None:
    """Goal: /docs/guide leads to the front page, whose relative links work from there."""
    answer = here.client.get("/docs/guide", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs/guide/")
    assert here.client.get("/docs/guide/").text == "<h1>Front</h1>"


def test_a_page_keeps_a_strict_policy(here: Ledger, site: Path) -> None:
    """Goal: a page runs its own scripts and no others, and loads from this server alone. Method: the policy of a page
    with an inline script has the hash of that script, worked out here, and no other source."""
    answer = here.client.get("/docs/guide/part/page.html")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert {policy[kind] for kind in ("connect-src", "worker-src", "font-src")} == {"'self'"}
    assert {policy[kind] for kind in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert answer.headers["x-content-type-options"] == "nosniff"
    types = {name: here.client.get(f"/docs/guide/{name}").headers["content-type"] for name in ("a.css", "a.js")}
    assert types == {"a.css": "text/css; charset=utf-8", "a.js": "text/javascript; charset=utf-8"}


@pytest.mark.parametrize(
    "path", ["no.html", "part", "part/", "../secret.html", "%2e%2e/secret.html", "part/..%2f..%2fsecret.html"]
)
def test_nothing_else_is_served(here: Ledger, site: Path, path: str) -> None:
    """Goal: only files of the site. Method: pages that do not exist, folders, and ways out of the site."""
    answer = here.client.get(f"/docs/guide/{path}")
    assert answer.status_code == 404
    assert answer.json()["code"] == "not-found"
    assert "secret" not in answer.json().get("content", "")


def test_a_link_out_of_the_site_is_not_followed(here: Ledger, site: Path) -> None:
    """Goal: a link in the folder leads nowhere else. Method: a symbolic link to a file beside it."""
    (site / "link.html").symlink_to(site.parent / "secret.html")
    assert here.client.get("/docs/guide/link.html").status_code == 404


def test_a_clone_says_how_to_build_it(here: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whoever runs from a clone learns what to type. Method: no site where it would be."""
    monkeypatch.setattr(guide, "SITE", tmp_path / "absent")
    answer = here.client.get("/docs/guide/")
    assert answer.status_code == 404
    assert "make docs" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
