"""Let a training job begin only with the signed receipt of its start. Exit status 0 lets it, anything else does not.

Run it before the training code, as a step of a CI job or an init container of a pod. It asks no server.

    python require_receipt.py --jwks /trust/jwks.json --tenant acme --dataset mnist /pod/receipt

It needs `pip install 'privacy-ledger[receipts]'`. The receipt can come from anywhere: only the ledger can make one. The
keys and the options must come from those who run the cluster, not from those who train.
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
    """Return the text of a file, or of standard input. Raises OSError if there is no file yet."""
    with sys.stdin.buffer if path == "-" else Path(path).open("rb") as file:
        raw = file.read(BYTES_MAX + 1)
    if len(raw) > BYTES_MAX:
        raise ValueError(f"{path} is too large")
    return raw.decode("ascii").strip()


def use(text: str) -> dict[str, Any]:
    """Return a dataset and its partitions from NAME or NAME:PARTITION,PARTITION."""
    name, colon, partitions = text.partition(":")
    return {"name": name, "partitions": partitions.split(",")} if colon else {"name": name}


def options() -> argparse.Namespace:
    """Return what the command line asks of a receipt."""
    parser = argparse.ArgumentParser(description="Let a job begin only with the signed receipt of its start.")
    parser.add_argument("receipt", help="the file with the receipt; - for standard input")
    parser.add_argument("--jwks", required=True, help="the ledger's public keys, fetched in advance")
    parser.add_argument("--tenant", required=True, help="whose ledger it is: the tenant's id, or its name")
    parser.add_argument("--dataset", required=True, action="append", help="NAME or NAME:PARTITION,…; can be repeated")
    parser.add_argument("--run", help="the run's id, if it is known")
    parser.add_argument("--mechanism-file", help="a file with the mechanism of the request, a JSON object")
    return parser.parse_args()


def check(asked: argparse.Namespace) -> Receipt:
    """Return the receipt if it permits this job. Raises LedgerError, OSError and ValueError."""
    mechanism = None if asked.mechanism_file is None else json.loads(read(asked.mechanism_file))
    return verify_receipt(
        read(asked.receipt),
        jwks=json.loads(read(asked.jwks)),
        tenant=asked.tenant,
        datasets=[use(text) for text in asked.dataset],
        run=asked.run,
        mechanism=mechanism,
    )


def main() -> int:
    """Return 0 if the job may begin; otherwise 1, with the reason on standard error."""
    try:
        receipt = check(options())
    except (LedgerError, OSError, ValueError) as error:
        sys.stderr.write(f"refused: {error}\n")
        return 1
    sys.stdout.write(f"run {receipt.run} may begin, until {receipt.begin_by.isoformat()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
