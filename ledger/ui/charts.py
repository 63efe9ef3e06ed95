"""Figures as SVG, made from a few numbers, each with a text alternative. Colours are classes of the style sheet."""

from __future__ import annotations

from markupsafe import Markup

_WIDTH = 1000


def bar(spent: float | None, held: float | None, label: str) -> Markup:
    """Return a bar of what is spent and held, in percent of a limit. label: the same in words."""
    first = _share(spent)
    second = min(_share(held), _WIDTH - first)
    return Markup(
        '<svg class="bar" viewBox="0 0 {0} 20" preserveAspectRatio="none" role="img" aria-label="{1}">'
        '<rect class="track" width="{0}" height="20"></rect>'
        '<rect class="spent" width="{2:.1f}" height="20"></rect>'
        '<rect class="held" x="{2:.1f}" width="{3:.1f}" height="20"></rect></svg>'
    ).format(_WIDTH, label, first, second)


def _share(value: float | None) -> float:
    return 0.0 if value is None else _WIDTH * min(max(value, 0.0), 100.0) / 100
