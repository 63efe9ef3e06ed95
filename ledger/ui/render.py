"""Templates, and how numbers, times and names are written in them."""

from __future__ import annotations

import json
import math
from datetime import datetime
from decimal import ROUND_CEILING, Context, Decimal
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.responses import HTMLResponse, Response

from ledger.access import roles
from ledger.core.amounts import timestamp
from ledger.ui import charts, static
from ledger.ui.routes import MENU

THIN: Final = "\N{NARROW NO-BREAK SPACE}"
NONE: Final = "–"
_UP: Final = Context(prec=4, rounding=ROUND_CEILING)
_WHOLE: Final = 100
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; frame-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types 'none'"
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
        number=number,
        percent=percent,
        percent_up=percent_up,
        when=when,
        moment=moment,
        day=day,
        epsilon=epsilon,
        path=path,
        short=short,
        plural=plural,
        pretty=pretty,
    )
    environment.globals.update(static=static.URLS, menu=MENU, may=roles.may, charts=charts, nothing=NONE)
    return environment


def number(value: Decimal | float | None, digits: int = 6) -> str:
    """Return a number with thin spaces between thousands, and at most so many significant digits after the point."""
    if value is None:
        return NONE
    if isinstance(value, int):
        return f"{value:,}".replace(",", THIN)
    value = float(value)
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e15:
        mantissa, _, exponent = f"{value:.{max(digits - 3, 1)}g}".partition("e")
        times = "" if mantissa == "1" else f"{mantissa}{THIN}×{THIN}"
        return f"{times}10{_raised(int(exponent))}" if exponent else mantissa
    text = f"{value:,.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    return text.replace(",", THIN)


def _raised(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def percent(value: float | None) -> str:
    """Return a percentage with its sign. The services round most of them, against who spends; see also `percent_up`."""
    if value is None:
        return NONE
    return f"{number(float(value), 6 if abs(value) >= _WHOLE else 4)}{THIN}%"


def percent_up(value: float | None) -> str:
    """Return the same of what was spent and is exact: rounded up."""
    return percent(None if value is None else _rounded_up(value))


def epsilon(value: float | None) -> str:
    """Return an epsilon with four digits, rounded up, because it bounds what was revealed."""
    return NONE if value is None else number(_rounded_up(value), 4)


def _rounded_up(value: float) -> float:
    return float(_UP.create_decimal(value)) if math.isfinite(value) else value


def when(at: str | None, *, form: str = "minute") -> Markup:
    """Return a time: in UTC as it stands here; the script writes it in the viewer's zone, with UTC on hover.

    form: minute, second or day.
    """
    if at is None:
        return Markup("–")
    read = datetime.fromisoformat(at)
    shown = read.strftime({"minute": "%Y-%m-%d %H:%M UTC", "second": "%Y-%m-%d %H:%M:%S UTC", "day": "%Y-%m-%d"}[form])
    utc = read.strftime("%Y-%m-%d %H:%M:%S UTC")
    return Markup('<time datetime="{}" title="{}" data-form="{}">{}</time>').format(at, utc, form, shown)


def moment(at_us: int) -> Markup:
    """Return a time that is given in microseconds, in the same way."""
    return when(timestamp(at_us))


def day(at: str | None) -> Markup:
    """Return the day of a time, in the same way."""
    return when(at, form="day")


def path(text: str) -> str:
    """Return a name as a part of an address."""
    return quote(text, safe="")


def short(id_: str) -> Markup:
    """Return the beginning of an id, of which the whole is its title."""
    return Markup('<code class="id" title="{}">{}</code>').format(id_, escape(id_[:8]))


def plural(count: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun."""
    return f"{number(count)} {one if count == 1 else many or one + 's'}"


def pretty(value: Any) -> str:
    """Return what a record has as indented JSON, for reading."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=float)
