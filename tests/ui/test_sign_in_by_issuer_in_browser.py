"""Signing in by an OpenID Connect issuer in Chromium: two real servers, and a person between them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from ledger.access.keys import tenant_of
from tests.conftest import Templates
from tests.kit.driver import Ledger, first_keys, serve_here
from tests.kit.provider import CLIENT, SECRET, Provider, providing
from tests.ui.conftest import Opener
from tests.ui.test_browser import judged


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    """A provider on the loopback."""
    with providing() as made:
        yield made


@pytest.fixture(scope="module")
def site(templates: Templates, provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A server that people sign in to by the provider."""
    folder = tmp_path_factory.mktemp("site")
    with templates.clone("sqlite", folder, is_begun=True) as settings:
        first = first_keys(settings)
        rule = {"claims": {"groups": "steward"}, "tenant": str(tenant_of(first.admin_key)), "role": "steward"}
        (folder / "secret").write_text(SECRET)
        issuer = provider.said(rule, client_id=CLIENT, client_secret={"file": str(folder / "secret")})
        (folder / "oidc.json").write_text(json.dumps({"issuers": [issuer]}))
        changed = settings.model_copy(update={"oidc_file": folder / "oidc.json", "watch_seconds": 3600})
        with serve_here(changed) as url, httpx.Client(base_url=url) as client:
            slug = provider.url.removeprefix("http://").replace(".", "-").replace(":", "-")
            provider.redirect_uris = {f"{url}/ui/sign-in/oidc/{slug}/back"}
            yield Ledger(client, first.admin_key, operator_key=first.operator_key, tenant=first.tenant)


def test_signing_in_by_a_provider_in_a_browser(open_page: Opener, site: Ledger, provider: Provider) -> None:
    """Goal: a person comes from a page to the provider and back to that page, and signs out; a sign-in that is refused
    is explained. Method: a real browser, with the policy of the pages; neither code nor token stays in it; axe-core."""
    page = open_page("/ui/datasets")
    assert judged(page) == []
    link = page.get_by_role("link", name=f"Sign in with {provider.host}")
    link.click()
    page.get_by_role("heading", name="Sign in as ada?").wait_for()
    page.get_by_role("button", name="Continue").click()
    page.wait_for_url("**/ui/datasets")
    assert "ada" in page.locator(".person").inner_text()
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    tokens = provider.tokens[-1]
    for secret in (tokens["id_token"], tokens["access_token"], "ledger-session", "ledger-sign-in"):
        assert secret not in stored
    (cookie,) = page.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["sameSite"]) == ("ledger-session", True, "Lax")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/ui/sign-in?done=signed-out")
    provider.denies = True
    link.click()
    page.get_by_role("button", name="Continue").click()
    problem = page.get_by_role("alert")
    problem.wait_for()
    assert "access_denied" in problem.inner_text()
    assert judged(page) == []
    assert page.context.cookies() == []
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
