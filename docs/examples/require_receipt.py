"""Lets a training job begin only with the signed receipt of its start. Exit status 0 lets it, anything else does not.

A step of a CI job, or an init container of a pod: it stands before the training code, and asks no server.

    python require_receipt.py --jwks /trust/jwks.json --tenant acme --dataset mnist /pod/receipt

It takes `pip install 'privacy-ledger[receipts]'`. Where the receipt comes from does not matter: nobody but the ledger
can make one. Where the keys and the demands come from does: they belong to who runs the cluster, not to who trains.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ledger.client import LedgerError, Receipt, verify_receipt

BYTES_MAX = 8 * 1024 * 1024


def read(path: str) -> str:
    """A file, or what is piped in; a receipt that is not there yet is none."""
    with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
        raw = file.read(BYTES_MAX + 1)
    if len(raw) > BYTES_MAX:
        raise ValueError(f"{path} is too large")
    return raw.decode("ascii").strip()


def use(said: str) -> dict[str, Any]:
    """NAME, or NAME:PARTITION,PARTITION."""
    name, colon, partitions = said.partition(":")
    return {"name": name, "partitions": partitions.split(",")} if colon else {"name": name}


def demanded() -> argparse.Namespace:
    """What the command line asks of a receipt."""
    parser = argparse.ArgumentParser(description="Lets a job begin only with the signed receipt of its start.")
    parser.add_argument("receipt", help="the file with the receipt; - for standard input")
    parser.add_argument("--jwks", required=True, help="the ledger's public keys, fetched beforehand")
    parser.add_argument("--tenant", required=True, help="whose ledger it is: the tenant's id, or its name")
    parser.add_argument("--dataset", required=True, action="append", help="NAME or NAME:PARTITION,…; again for more")
    parser.add_argument("--run", help="the run's id, where it is known")
    parser.add_argument("--mechanism-file", help="the mechanism as it was asked for, a JSON object")
    return parser.parse_args()


def check(said: argparse.Namespace) -> Receipt:
    """The receipt, which is good for this. Raises LedgerError, OSError, ValueError."""
    mechanism = None if said.mechanism_file is None else json.loads(read(said.mechanism_file))
    return verify_receipt(
        read(said.receipt),
        jwks=json.loads(read(said.jwks)),
        tenant=said.tenant,
        datasets=[use(each) for each in said.dataset],
        run=said.run,
        mechanism=mechanism,
    )


def main() -> int:
    """0 where the job may begin; 1, with the reason on standard error, where it may not."""
    said = demanded()
    try:
        found = check(said)
    except (LedgerError, OSError, ValueError) as error:
        sys.stderr.write(f"refused: {error}\n")
        return 1
    sys.stdout.write(f"run {found.run} may begin, until {found.begin_by.isoformat()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
