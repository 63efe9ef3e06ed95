"""Templates, and how numbers, times and names are written in them."""

from __future__ import annotations

import math
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from ledger.access import roles
from ledger.ui import charts, static
from ledger.ui.routes import MENU

THIN: Final = "\N{NARROW NO-BREAK SPACE}"
NONE: Final = "–"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    # With `no-referrer` a browser states no origin with a form, see `csrf`.
    "Referrer-Policy": "same-origin",
}


def page(template: str, *, status: int = 200, **facts: Any) -> Response:
    """Return a page from a template."""
    text = _environment().get_template(template).render(facts)
    return HTMLResponse(text, status_code=status, headers=HEADERS)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(
        number=number, percent=percent, when=when, day=day, epsilon=epsilon, path=path, short=short, plural=plural
    )
    environment.globals.update(static=static.URLS, menu=MENU, may=roles.may, charts=charts, none=NONE)
    return environment


def number(value: float | None, digits: int = 6) -> str:
    """Return a number with thin spaces between thousands, and at most so many significant digits after the point."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}".replace(",", THIN)
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e15:
        mantissa, _, exponent = f"{value:.{max(digits - 3, 1)}g}".partition("e")
        return f"{mantissa}{THIN}×{THIN}10{_raised(int(exponent))}" if exponent else mantissa
    text = f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    return text.replace(",", THIN)


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent(value: float | None) -> str:
    """Return a percentage with its sign; the services have rounded it against who spends."""
    if value is None:
        return NONE
    digits = 6 if abs(value) >= 100 else 4
    return f"{number(float(value), digits)}{THIN}%"


def epsilon(value: float | None) -> str:
    """Return an epsilon with four digits, rounded up, because it bounds what was revealed."""
    if value is None:
        return NONE
    if value == 0 or not math.isfinite(value):
        return number(value)
    scale = 10.0 ** (3 - math.floor(math.log10(abs(value))))
    return number(math.ceil(value * scale) / scale if math.isfinite(scale) else value, 4)


def when(moment: str | None, *, form: str = "minute") -> Markup:
    """Return a time: in UTC as it stands here; the script writes it in the viewer's zone, with UTC on hover.

    form: minute, second or day.
    """
    if moment is None:
        return Markup("–")
    at = datetime.fromisoformat(moment)
    shown = at.strftime({"minute": "%Y-%m-%d %H:%M UTC", "second": "%Y-%m-%d %H:%M:%S UTC", "day": "%Y-%m-%d"}[form])
    utc = at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" title="{}" data-form="{}">{}</time>').format(moment, utc, form, shown)


def day(moment: str | None) -> Markup:
    """Return the day of a time, in the same way."""
    return when(moment, form="day")


def path(text: str) -> str:
    """Return a name as a part of an address."""
    return quote(text, safe="")


def short(id_: str) -> Markup:
    """Return the beginning of an id, of which the whole is its title."""
    return Markup('<code class="id" title="{}">{}</code>').format(id_, escape(id_[:8]))


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"
