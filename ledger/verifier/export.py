"""The format of an export."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from ledger.core.entries import Sealed
from ledger.core.journal.chain import digest
from ledger.errors import JournalBroken

FORMAT: Final = "privacy-ledger-export"
VERSION: Final = 3
"""Since version 2 the head is signed; since version 3 a request that is in another journal has a line of its own."""
LINE_LENGTH_MAX: Final = 4 * 1024 * 1024
ENTRY: Final = re.compile(r'\{"seq":([1-9][0-9]{0,18}),"hash":"([0-9a-f]{64})","entry":(\{.*\})\}', re.DOTALL)
_REQUEST: Final = re.compile(r'\{"request":(\{.*\})\}', re.DOTALL)
_HEAD: Final = re.compile(
    r'\{"head":\{"seq":(0|[1-9][0-9]{0,18}),"hash":"([0-9a-f]{64})"'
    r'(?:,"root":(?:null|"([0-9a-f]{64})"),"signature":(?:null|"([A-Za-z0-9_.-]+)"))?\}\}'
)


def header(
    *, tenant_id: UUID, tenant: str, dataset_id: UUID | None = None, dataset: str = "", keys: Mapping[str, Any]
) -> str:
    """Return an export's first line: of a dataset's journal, or of the tenant's own. keys: a JWK set."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "tenant": {"id": str(tenant_id), "name": tenant},
    }
    if dataset_id is not None:
        about["dataset"] = {"id": str(dataset_id), "name": dataset}
    return json.dumps({**about, "keys": keys}, ensure_ascii=False, separators=(",", ":"))


def parsed_header(line: str) -> dict[str, Any]:
    """Parse an export's first line. Raises JournalBroken for an unknown version, and for another shape ValueError,
    TypeError, KeyError, AttributeError or RecursionError."""
    line.encode()  # raises if the line was not UTF-8
    about: dict[str, Any] = json.loads(line, object_pairs_hook=_once)
    version = about["version"]
    if about["format"] != FORMAT or type(version) is not int or version not in (1, 2, VERSION):
        raise JournalBroken(f"the format {about['format']!r} version {version!r} is not known", seq=0)
    names = {"format", "version", "tenant"} | ({"keys"} if version > 1 else set())
    parts = [about[part] for part in ("tenant", "dataset") if part in about]
    if about.keys() - {"dataset"} != names or not all(part.keys() == {"id", "name"} for part in parts):
        raise ValueError("has other members than a header")
    if not all(str(UUID(part["id"])) == part["id"] and isinstance(part["name"], str) for part in parts):
        raise ValueError("names no tenant or dataset")
    return about


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member appears twice")
    return members


def entry_line(*, seq: int, hash_: bytes, body: str) -> str:
    """Return one entry's line."""
    return f'{{"seq":{seq},"hash":"{hash_.hex()}","entry":{body}}}'


def request_line(request: str) -> str:
    """Return the line of the request that the entry in the next line names by its digest."""
    return f'{{"request":{request}}}'


def request_of(line: str) -> str | None:
    """Return the request in a line of requests."""
    match = _REQUEST.fullmatch(line.removesuffix("\n"))
    return None if match is None else match[1]


def head_line(*, seq: int, hash_: bytes, root: bytes, signature: str | None) -> str:
    """Return an export's last line. signature: None if the ledger did not sign it."""
    signed = "null" if signature is None else f'"{signature}"'
    return f'{{"head":{{"seq":{seq},"hash":"{hash_.hex()}","root":"{root.hex()}","signature":{signed}}}}}'


@dataclass(frozen=True, slots=True)
class Line:
    """An entry of an export."""

    seq: int
    body: str
    hash: bytes
    request: str | None = None

    @property
    def sealed(self) -> Sealed:
        """Return the entry as `replay` reads it."""
        return Sealed(self.body, self.hash, self.request)

    @property
    def is_intact(self) -> bool:
        return digest(self.body) == self.hash

    def follows(self, before: Line) -> bool:
        try:
            return bool(json.loads(self.body)["prev"] == before.hash.hex())
        except (ValueError, TypeError, KeyError, RecursionError):
            return False


def parsed_head(line: str, version: int, seq: int) -> dict[str, Any]:
    """Parse the head line of an export. Raises JournalBroken."""
    match = _HEAD.fullmatch(line)
    if match is None or (version == 1) != (',"signature":' not in line):
        raise JournalBroken("the head, which ends an export, cannot be read", seq=seq)
    return {"seq": int(match[1]), "hash": match[2], "root": match[3], "signature": match[4]}
