"""Write a model card of an attestation: YAML front matter and Markdown, as the Hugging Face Hub reads them.

The front matter is written so that each reader of YAML 1.1 or 1.2 reads the same: `1e-05` would be a text in YAML 1.1,
`1.0e-05` is a number in both; texts are always quoted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

from ledger.client.attestations import Attestation

VALUE_LENGTH_MAX: Final = 200
"""The longest value of a mechanism's field that a card prints."""
FILES_MAX: Final = 20
_ADJACENCY: Final = {
    "add_or_remove_one": "one unit added or removed",
    "replace_one": "one unit replaced by another",
    "zero_out": "one unit's data replaced by nothing",
}
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]<>|#&~$])")


def model_card(attestation: Attestation) -> str:
    """Return the text of a README.md for the model: paste what it says of privacy into yours, or begin with it."""
    return "\n".join([*_front_matter(attestation), "", *_body(attestation), ""])


# --- front matter ----------------------------------------------------------------------------------------------------


def _front_matter(attestation: Attestation) -> Iterator[str]:
    yield from ("---", "tags:", "- differential-privacy", "differential_privacy:")
    facts: dict[str, Any] = {
        "mechanism": attestation.mechanism_type,
        "bound": attestation.bound,
        "mu": attestation.mu,
        "delta_of_mu": attestation.delta,
        "run": attestation.run,
        "settled_at": attestation.settled_at.isoformat(),
    }
    for name, value in facts.items():
        yield f"  {name}: {_yaml(value)}"
    if attestation.epsilon:
        yield "  guarantees:"
    for delta, epsilon in attestation.epsilon:
        yield f"  - epsilon: {_yaml(epsilon)}"
        yield f"    delta: {_yaml(delta)}"
    yield "  datasets:"
    for dataset in attestation.datasets:
        yield f"  - name: {_yaml(dataset.name)}"
        yield f"    privacy_unit: {_yaml(dataset.privacy_unit)}"
        yield f"    adjacency: {_yaml(dataset.adjacency)}"
    yield "  files:"
    for model in attestation.models:
        yield f"  - name: {_yaml(model.name)}"
        yield f"    sha256: {_yaml(model.sha256)}"
        yield f"    size: {_yaml(model.size)}"
    yield "---"


def _yaml(value: str | float) -> str:
    """Return a scalar that YAML 1.1 and 1.2 read as the same text or number."""
    if isinstance(value, str):
        return '"' + "".join(map(_escaped, value)) + '"'
    if isinstance(value, int):
        return str(value)
    mantissa, exponent, power = repr(value).partition("e")
    return f"{mantissa}{'' if '.' in mantissa else '.0'}{exponent}{power}"


def _escaped(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    if " " <= character <= "~":
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# --- text ------------------------------------------------------------------------------------------------------------


def _body(attestation: Attestation) -> Iterator[str]:
    yield "## Differential privacy"
    yield ""
    word = "estimate, which is not a guarantee" if attestation.is_estimate else "guarantee"
    yield f"The run that produced this model has this {word}, by itself:"
    yield ""
    yield "| epsilon | delta | unit | neighboring datasets |"
    yield "|---|---|---|---|"
    for dataset in attestation.datasets:
        unit = f"{_text(dataset.privacy_unit)} of {_text(dataset.name)}"
        neighbors = _ADJACENCY.get(dataset.adjacency, _text(dataset.adjacency))
        for delta, epsilon in attestation.epsilon:
            yield f"| {_shown(epsilon)} | {_shown(delta)} | {unit} | {neighbors} |"
        if not attestation.epsilon:
            yield f"| no finite epsilon | | {unit} | {neighbors} |"
    yield ""
    yield from _how(attestation)
    yield ""
    yield "Files that the run produced:"
    yield ""
    for model in attestation.models[:FILES_MAX]:
        yield f"- {_text(model.name)}, {model.size:,} bytes, SHA-256 `{_plain(model.sha256)}`"
    if len(attestation.models) > FILES_MAX:
        yield f"- and {len(attestation.models) - FILES_MAX:,} more, which the front matter lists"
    yield ""
    yield "What this does not cover:"
    yield ""
    yield "- Other uses of the same data, such as other runs and the choice of hyperparameters. They add to the loss."
    yield "- What the code did. The ledger records the mechanism that was declared, and does not see the noise."


def _how(attestation: Attestation) -> Iterator[str]:
    parameters: Mapping[str, Any] = attestation.statement["predicate"]["mechanism"]["parameters"]
    fields = [
        f"{_text(name)} {_text(shown)}"
        for name, value in parameters.items()
        if name != "type" and len(shown := _value(value)) <= VALUE_LENGTH_MAX
    ]
    steps = "" if attestation.steps is None else f" Steps executed: {attestation.steps:,}."
    yield f"- Mechanism: {_text(attestation.mechanism_type)}: {', '.join(fields)}.{steps}"
    yield f"- As Gaussian differential privacy: mu {_shown(attestation.mu)}, delta {_shown(attestation.delta)}."
    yield f"- Run {_plain(attestation.run)} of the privacy budget ledger, settled {attestation.settled_at.isoformat()}."


def _value(value: Any) -> str:
    """Return a parameter as it was declared: rounded up, noise would look like more protection."""
    return f"{float(value):.15g}" if isinstance(value, Decimal | float) else str(value)


def _shown(value: float) -> str:
    """Return a number with four digits; what it rounds off is never in the reader's favor."""
    if value == 0:
        return "0"
    rounded = Decimal(repr(value)).normalize()
    unit = Decimal(1).scaleb(rounded.adjusted() - 3)
    return f"{float(rounded.quantize(unit, rounding='ROUND_CEILING')):.4g}"


def _text(text: str) -> str:
    """Return a text for Markdown, in one line and without markup."""
    return _SPECIAL.sub(r"\\\1", " ".join(_printable(text).split()))


def _plain(text: str) -> str:
    """Return a text for a code span."""
    return _printable(text).replace("`", "'")


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
