"""Read the keys, receipts and heads that an auditor kept, from the files that a command names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ledger.errors import InvalidRequest
from ledger.verifier.witness import TEXT_LENGTH_MAX, Witnesses

if TYPE_CHECKING:
    from ledger.verifier.jws import PublicKeys

Jwks = Annotated[
    Path | None,
    typer.Option(
        "--jwks", help="The public keys that you trust: /.well-known/jwks.json, fetched earlier or another way."
    ),
]
Receipts = Annotated[list[Path] | None, typer.Option("--receipt", help="A receipt that the journal must contain.")]
Heads = Annotated[
    list[Path] | None,
    typer.Option("--head", help="An earlier signed head that it must contain, or a file with one head per line."),
]


def text_of(file: Path, field: str, *, length_max: int = TEXT_LENGTH_MAX) -> str:
    """Return a file's text. Raises InvalidRequest if it cannot be read or is longer than `length_max` characters."""
    try:
        with file.open(encoding="utf-8") as source:
            text = source.read(length_max + 1)
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}", field=field) from error
    except UnicodeDecodeError:
        raise InvalidRequest(f"{file}: is not UTF-8 text", field=field) from None
    if len(text) > length_max:
        raise InvalidRequest(f"{file}: is longer than {length_max} characters", field=field)
    return text


def keys_of(file: Path) -> PublicKeys:
    """Return the keys of the JWK set in a file. Raises InvalidRequest and SignatureInvalid."""
    return keys_in(_json(text_of(file, "jwks"), file))


def keys_in(key_set: Any) -> PublicKeys:
    """Return the keys of a parsed JWK set. Raises SignatureInvalid."""
    from ledger.verifier.jws import PublicKeys

    return PublicKeys.of(key_set)


def _json(text: str, file: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidRequest(f"{file}: is not JSON", field="jwks") from None


def witnesses(
    keys: PublicKeys | None, receipts: Sequence[Path] | None, heads: Iterable[Path] | None
) -> Witnesses | None:
    """Return the receipts and heads in these files; None if there are no files. Raises InvalidRequest and
    SignatureInvalid."""
    receipts, heads = list(receipts or ()), list(heads or ())
    if not receipts and not heads:
        return None
    if keys is None:
        raise InvalidRequest(
            "jwks: the keys to check receipts and heads with are missing. Give them: --jwks FILE", field="jwks"
        )
    kept = Witnesses()
    for file in receipts:
        kept.add_receipts(text_of(file, "receipt"), keys=keys, source=str(file))
    for file in heads:
        kept.add_heads(text_of(file, "head"), keys=keys, source=str(file))
    return kept


def published_in(folder: Path | None) -> list[Path]:
    """Return the files in which a server published heads. Raises InvalidRequest if the folder does not exist."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise InvalidRequest(f"{folder}: is not a folder", field="heads-dir")
    return sorted(folder.glob("*/*.jws"))
