"""The planner while somebody writes, and axe-core's judgement of what an admin alone sees."""

from __future__ import annotations

from tests.kit.driver import Ledger
from tests.kit.office import furnished
from tests.ui.conftest import Opener
from tests.ui.test_browser import CONTRAST, judged


def test_tools_in_a_browser(open_page: Opener, site: Ledger) -> None:
    """Goal: the planner answers while somebody writes, and keeps the address; another mechanism loads its form; a new
    key is shown once; none of these pages breaks a rule of accessibility. Method: a real browser, as an admin."""
    office = furnished(site)
    page = open_page("/ui/planner?dataset=patients", key=site.key)
    result = page.locator("#result")
    assert "9" in result.get_by_role("row", name="More such runs").inner_text()
    page.get_by_label("Noise multiplier").fill("0.5")
    result.get_by_text("does not fit").wait_for()
    assert "noise_multiplier=0.5" in page.url
    assert page.evaluate("document.activeElement.name") == "noise_multiplier"
    page.get_by_label("Values").fill("2, 4")
    page.get_by_label("Compare by").select_option("noise_multiplier")
    result.get_by_role("columnheader", name="noise_multiplier 4").wait_for()
    assert judged(page) == []
    result.get_by_role("link", name="noise_multiplier 4").click()
    page.wait_for_url("**noise_multiplier=4**")
    assert page.get_by_label("Noise multiplier").input_value() == "4"
    page.get_by_label("Mechanism").select_option("dpsgd")
    page.get_by_label("Epochs").wait_for()
    page.goto("/ui/keys")
    wrong = judged(page)
    page.emulate_media(color_scheme="dark")
    wrong += judged(page, CONTRAST)
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_label("Name").fill("a new job")
    page.get_by_role("button", name="Make the key").click()
    page.get_by_role("heading", name="The new key").wait_for()
    wrong += judged(page)
    assert wrong == []
    assert "pbl_" not in page.url
    page.goto("/ui/search")
    page.get_by_label("Purpose, or the beginning of an id").fill(office.held[:8])
    page.get_by_role("button", name="Search").click()
    page.wait_for_url(f"**/ui/runs/{office.held}")
