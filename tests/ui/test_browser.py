"""What only a browser shows: policy, script, keyboard, themes, and axe-core's judgement of every page."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.kit.driver import Ledger
from tests.kit.office import HOSTILE, Office, furnished
from tests.kit.pages import words_of
from tests.kit.scene import another_tenant, ok
from tests.ui.conftest import Opener

AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
CONTRAST = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}


@pytest.fixture(scope="module")
def office(site: Ledger) -> Office:
    """A furnished tenant behind the server."""
    return furnished(site)


def judged(page: Any, rules: dict[str, Any] = AXE) -> list[str]:
    """What axe-core finds wrong with a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed: make install")
    found = axe.Axe().run(page, options=rules).response["violations"]
    return [f"{page.url} {one['id']}: {[node['target'] for node in one['nodes']]}" for one in found]


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


def test_no_page_breaks_a_rule_of_accessibility(open_page: Opener, office: Office) -> None:
    """Goal: WCAG 2.2 AA in both themes, and nothing wider than a phone. Method: axe-core on every page in the light
    theme, by its rule of contrast in the dark one too; the width of what can be scrolled to at 390 pixels."""
    wrong = judged(open_page("/ui/sign-in"))
    admin, steward = (open_page("/ui", key=one.key) for one in (office.admin, office.steward))
    for kind, path in office.pages.items():
        page = steward if kind in office.proposals else admin
        page.goto(path)
        wrong += judged(page)
        page.emulate_media(color_scheme="dark")
        wrong += judged(page, CONTRAST)
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        page.set_viewport_size({"width": 1280, "height": 900})
    assert not wrong, "\n".join(wrong)


def test_hostile_names_run_nothing(open_page: Opener, office: Office) -> None:
    """Goal: markup and direction marks in names are text, and change nothing around them. Method: a browser that would
    run them; what the page shows is what was written; the heading beside them stays in its place."""
    page = open_page(office.pages["hostile"], key=office.admin.key)
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    page.reload()
    assert dialogs == []
    assert page.locator("dd.text").first.inner_text() == HOSTILE
    assert page.evaluate("document.querySelectorAll('main script').length") == 0


def test_long_texts_stay_in_their_place(open_page: Opener, site: Ledger) -> None:
    """Goal: 10,000 characters without a space, in a script from right to left or none, neither widen nor fill a page.
    Method: the longest title, description and purpose; at the width of a phone and of a desk."""
    site.register(name="long", title="\N{HEBREW LETTER ALEF}" * 255, description=f"{HOSTILE}{'x' * 10_000}"[:10_000])
    run = ok(
        site.ask({"type": "gaussian", "noise_multiplier": 9}, datasets=["long"], purpose="\N{ARABIC LETTER BEH}" * 1900)
    )
    for path in ("/ui/datasets/long", f"/ui/runs/{run['id']}", "/ui/search?dataset=long", "/ui"):
        page = open_page(path, key=site.key)
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
            tallest = page.evaluate(
                "Math.max(0, ...[...document.querySelectorAll('.text')].map((one) => one.clientHeight))"
            )
            assert tallest <= 12 * 16, (path, width)


def test_times_are_in_the_viewers_zone(open_page: Opener, office: Office) -> None:
    """Goal: a time is in the zone of who reads it, and UTC on hover; in UTC without a script. Method: Tokyo with and
    without JavaScript."""
    at = ok(office.admin.get(f"/v1/runs/{office.held}"))["created_at"]
    with_script = open_page(f"/ui/runs/{office.held}", key=office.admin.key).locator(f'time[datetime="{at}"]').first
    assert with_script.get_attribute("title") == f"{at[:10]} {at[11:19]} UTC"
    hour = (int(at[11:13]) + 9) % 24
    assert f"{hour:02}:{at[14:16]}" in with_script.inner_text()
    without = open_page(f"/ui/runs/{office.held}", key=office.admin.key, java_script_enabled=False)
    assert without.locator(f'time[datetime="{at}"]').first.inner_text() == f"{at[:10]} {at[11:16]} UTC"


def test_a_chosen_theme_stays(open_page: Opener, office: Office) -> None:
    """Goal: the switch overrides what the system prefers, on the next page too. Method: from light to dark."""
    page = open_page("/ui", key=office.admin.key, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    switch = page.get_by_role("button", name="Dark")
    assert switch.get_attribute("aria-pressed") == "false"
    switch.click()
    assert switch.get_attribute("aria-pressed") == "true"
    dark = page.evaluate(ground)
    assert dark != light
    page.goto("/ui/datasets")
    assert page.evaluate(ground) == dark


def test_the_keyboard_is_enough(open_page: Opener, office: Office) -> None:
    """Goal: the first key of a page leads past its menu, and focus is seen. Method: Tab, Enter, and what has focus."""
    page = open_page("/ui", key=office.admin.key)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    box = page.locator(".skip").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_refusal_leads_to_the_planner(open_page: Opener, office: Office) -> None:
    """Goal: from the overview to why a run was refused, and from there to what would fit. Method: click."""
    page = open_page("/ui", key=office.admin.key)
    page.locator(f'a[href="/ui/runs/{office.refused}"]').first.click()
    assert page.get_by_role("heading", name="Why it was refused").is_visible()
    link = page.get_by_role("link", name="noise multiplier")
    assert f"/ui/planner?dataset=patients&run={office.refused}" in str(link.get_attribute("href"))


def test_an_id_is_copied(open_page: Opener, office: Office) -> None:
    """Goal: every object has an id to copy. Method: the button, and the clipboard."""
    page = open_page(f"/ui/runs/{office.held}", key=office.admin.key, permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy id").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == office.held


def test_answering_in_a_browser(open_page: Opener, site: Ledger) -> None:
    """Goal: a second person approves and refuses with a reason in a browser, and their forms pass the policy. Method:
    both, in a tenant of its own."""
    office = furnished(another_tenant(site, name="answering"))
    page = open_page(office.pages["fair use"], key=office.steward.key)
    page.get_by_label("Reason").fill("Agreed.")
    page.get_by_role("button", name="Approve").click()
    assert page.get_by_role("status").inner_text() == "Approved. The change is made."
    page.goto(office.pages["void"])
    page.get_by_role("button", name="Refuse").click()
    assert "Write why you refuse it" in page.get_by_role("alert").inner_text()
    page.get_by_label("Reason").fill("The log shows output.")
    page.get_by_role("button", name="Refuse").click()
    assert page.get_by_role("status").inner_text() == "Refused. Nothing was changed."
    answered = ok(office.admin.get(f"/v1/proposals/{office.proposals['void']}"))
    assert (answered["state"], answered["answered_reason"]) == ("refused", "The log shows output.")


def test_a_session_that_ended_says_so(open_page: Opener, site: Ledger) -> None:
    """Goal: a revoked key ends the session on the next click, in words, and the page is found again after signing in.

    Method: revoke, click, sign in with another key.
    """
    made = ok(site.post("/v1/keys", {"name": "somebody", "role": "steward"}))
    page = open_page("/ui", key=made["secret"])
    ok(site.delete(f"/v1/keys/{made['id']}"))
    page.get_by_role("link", name="Approvals").click()
    assert "Your session has ended" in page.get_by_role("status").inner_text()
    page.get_by_label("Your key").fill(site.key)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/ui/approvals")


def test_another_tenant_sees_no_page(open_page: Opener, office: Office, site: Ledger) -> None:
    """Goal: a link that somebody sent to another tenant shows nothing. Method: a browser of that tenant."""
    page = open_page(office.pages["held"], key=another_tenant(site, name="strangers").key)
    assert page.get_by_role("heading", name="There is no such page").is_visible()
    assert "patients" not in words_of(json.dumps(page.content()))
