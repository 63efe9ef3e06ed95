"""What a journal, a head and a receipt prove, worked out from export.md and receipts.md alone."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.model.prices import Json

NO_HASH: Final = "0" * 64


def exact(text: str) -> Any:
    """JSON with the digits that were written."""
    return json.loads(text, parse_float=Decimal)


def canonical(value: Any) -> str:
    """export.md, "An entry": sorted members, no white space, exact decimals without an exponent."""
    match value:
        case dict():
            return "{" + ",".join(f"{canonical(name)}:{canonical(value[name])}" for name in sorted(value)) + "}"
        case list():
            return "[" + ",".join(map(canonical, value)) + "]"
        case Decimal():
            digits = f"{value:f}"
            return digits.rstrip("0").rstrip(".") if "." in digits else digits
        case _:
            return json.dumps(value, ensure_ascii=False)


def digest(text: str) -> str:
    """SHA-256 of the text's UTF-8 bytes, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def merkle_root(hashes: list[bytes]) -> bytes:
    """export.md, "The Merkle tree", top down: the left subtree is the largest power of two below the whole."""
    if len(hashes) <= 1:
        return hashlib.sha256(b"".join(b"\0" + leaf for leaf in hashes)).digest()
    middle = 1 << (len(hashes) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + merkle_root(hashes[:middle]) + merkle_root(hashes[middle:])).digest()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(token: str, kind: str, jwks: Json) -> Json:
    """The payload of a JWS that one of these keys signed; receipts.md, "How to check one"."""
    header, payload, signature = token.split(".")
    stated = json.loads(_decoded(header))
    (key,) = [key for key in jwks["keys"] if key["kid"] == stated["kid"]]
    assert stated == {"alg": "EdDSA", "kid": key["kid"], "typ": f"privacy-ledger-{kind}+jws"}
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    Ed25519PublicKey.from_public_bytes(_decoded(key["x"])).verify(_decoded(signature), f"{header}.{payload}".encode())
    text = _decoded(payload).decode()
    assert canonical(exact(text)) == text
    return dict(exact(text))


def names(items: list[Any]) -> list[str]:
    """The partitions that a receipt lists, each by itself or in a range; receipts.md, "Partitions"."""
    listed: list[str] = []
    for item in items:
        first, last = [item, item] if isinstance(item, str) else item
        width = len(first) - len(first.rstrip("0123456789")) if first != last else 0
        numbers = range(int(first[-width:]), int(last[-width:]) + 1) if width else ()
        listed += [f"{first[:-width]}{number:0{width}}" for number in numbers] or [item]
    return listed


@dataclass(frozen=True)
class Journal:
    """An export whose chain, root and signature hold."""

    header: Json
    entries: list[Json]
    hashes: list[str]


def journal(export: str, jwks: Json) -> Journal:
    """export.md, "What to check", 1 and 2."""
    first, *between, last = export.splitlines()
    header, head, hashes = json.loads(first), json.loads(last)["head"], [NO_HASH]
    entries: list[Json] = []
    lines = [line for line in between if not line.startswith('{"request":')]
    beside = {after: line for line, after in itertools.pairwise(between) if line.startswith('{"request":')}
    assert len(lines) + len(beside) == len(between)
    for seq, line in enumerate(lines, start=1):
        entry = exact(line)["entry"]
        text = canonical(entry)
        hashes.append(digest(text))
        assert line == f'{{"seq":{seq},"hash":"{hashes[-1]}","entry":{text}}}'
        assert (entry["seq"], entry["prev"], entry["tenant"]) == (seq, hashes[-2], header["tenant"]["id"])
        assert entry.get("dataset_id") == header.get("dataset", {}).get("id")
        assert ("request_in" in entry) == (line in beside)
        if line in beside:
            entry["request"] = exact(beside[line])["request"]
            assert digest(canonical(entry["request"])) == entry["request_sha256"]
            assert beside[line] == f'{{"request":{canonical(entry["request"])}}}'
            assert entry["request_in"]["id"] != entry["dataset_id"]
            del entry["request_in"], entry["request_sha256"]  # as an entry is that has the request
        entries.append(entry)
    root = merkle_root([bytes.fromhex(hash_) for hash_ in hashes[1:]]).hex()
    about = {name: header[name] for name in ("tenant", "dataset") if name in header}
    payload = {"v": 1, "type": "head", **about, "seq": len(lines), "hash": hashes[-1], "root": root}
    assert signed(head["signature"], "head", jwks) == {**payload, "at": entries[-1]["at"]}
    assert (head["seq"], head["hash"], head["root"]) == (len(lines), hashes[-1], root)
    return Journal(header, entries, hashes[1:])
