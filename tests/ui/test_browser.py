"""What only a browser shows: policy, script, keyboard, themes, and axe-core's judgement of every page."""

from __future__ import annotations

from tests.kit.driver import Ledger
from tests.ui.conftest import Opener


def test_signing_in_and_out_in_a_browser(open_page: Opener, site: Ledger) -> None:
    """Goal: a person signs in with a key, sees who they are, and signs out. Method: a real browser, whose forms state
    their origin; the key is in no address and no storage."""
    page = open_page("/ui", key=site.key)
    assert page.get_by_role("heading", name="Overview").is_visible()
    assert site.key not in page.url
    stored = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])")
    assert site.key not in stored
    assert "ledger-session" not in stored
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/ui/sign-in?done=signed-out")
    assert page.get_by_role("status").inner_text() == "You are signed out."
    assert page.context.cookies() == []
