"""Proofs about a journal, for an auditor without a whole export: fetch them, and check them without a server."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ledger.cli import held, show
from ledger.cli.server_call import server
from ledger.cli.show import console
from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier import proofs
from ledger.verifier.witness import Witnesses

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
Output = Annotated[Path, typer.Option(help="The file to write; - for standard output.")]
IsTenant = Annotated[
    bool, typer.Option("--tenant", help="Prove it for the tenant's own journal. Then name no dataset.")
]

proof_app = typer.Typer(help="Prove with a few hashes what otherwise needs a whole export.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(proof_app, name="proof", rich_help_panel="Audit")


@proof_app.command(epilog="Example: privacy-ledger proof inclusion mnist 12 --output proof.json")
def inclusion(
    what: Annotated[list[str], typer.Argument(metavar="DATASET SEQ", help="The dataset, and the number of the entry.")],
    size: Annotated[int | None, typer.Option(help="Prove it for the first SIZE entries. Default: all.")] = None,
    tenant: IsTenant = False,
    output: Output = Path("-"),
    as_json: Json = False,
) -> None:
    """Prove that the journal has this entry. A receipt names the entry of its run."""

    dataset, seq, *_ = _asked(what, ("SEQ",), tenant, required=1)
    with server() as ledger:
        if dataset is None:
            _write(ledger.tenant_proof(seq, size=size), output, as_json)
        else:
            _write(ledger.proof(dataset, seq, size=size), output, as_json)


@proof_app.command(epilog="Example: privacy-ledger proof consistency mnist 100 --output proof.json")
def consistency(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="DATASET FROM [TO]",
            help="The dataset, how many entries it had earlier, and how many later (default: all).",
        ),
    ],
    tenant: IsTenant = False,
    output: Output = Path("-"),
    as_json: Json = False,
) -> None:
    """Prove that a journal still begins with the entries that it had at an earlier head."""

    dataset, from_, to = _asked(what, ("FROM", "TO"), tenant, required=1)
    with server() as ledger:
        if dataset is None:
            _write(ledger.tenant_consistency(from_, to), output, as_json)
        else:
            _write(ledger.consistency(dataset, from_, to), output, as_json)


def _asked(words: list[str], names: tuple[str, ...], tenant: bool, *, required: int) -> tuple[str | None, Any, Any]:
    """Return the dataset (None for the tenant's own journal), and one or two numbers. Raises InvalidRequest."""
    dataset, typed = (None, words) if tenant else (words[0], words[1:])
    if not required <= len(typed) <= len(names):
        usual = " ".join(names[:required]) + "".join(f" [{name}]" for name in names[required:])
        raise InvalidRequest(
            f"Wrong number of arguments. Give {'' if tenant else 'DATASET '}{usual}.", field=names[0].lower()
        )
    numbers: list[int | None] = [None, None]
    for index, (name, word) in enumerate(zip(names, typed, strict=False)):
        if not word.isascii() or not word.isdecimal() or len(word) > 19:
            raise InvalidRequest(f"{name.lower()}: {word!r} is not a number of entries", field=name.lower())
        numbers[index] = int(word)
    return dataset, numbers[0], numbers[1]


def _write(proof: Any, output: Path, as_json: bool) -> None:
    text = json.dumps(proof, ensure_ascii=False)
    if str(output) == "-":
        console.plain(text)
        return
    console.save(output, text + "\n")
    hashes = console.counted(len(proof["path"]), "hash", "hashes")
    message = f"{output}: {hashes}. Check it: privacy-ledger proof verify {output} --jwks FILE"
    if as_json:
        console.print_json({"file": str(output), "kind": proof["kind"], "hashes": len(proof["path"])})
    else:
        console.err.print(message)


@proof_app.command(epilog="Example: privacy-ledger proof verify proof.json --jwks jwks.json")
def verify(
    file: Annotated[Path, typer.Argument(help="A proof that `proof inclusion` or `proof consistency` wrote.")],
    jwks: Annotated[Path, typer.Option("--jwks", help="The public keys that you trust: /.well-known/jwks.json.")],
    receipt: held.Receipts = None,
    head: held.Heads = None,
    as_json: Json = False,
) -> None:
    """Check a proof, and receipts and earlier heads against it, without a server.

    Exit status 1 if it does not verify.
    """
    keys = held.keys_of(jwks)
    kept = held.witnesses(keys, receipt, head) or Witnesses()
    try:
        proved = proofs.verify(held.text_of(file, "file", length_max=proofs.TEXT_LENGTH_MAX), keys=keys, witnesses=kept)
    except JournalBroken as error:
        if as_json:
            console.print_json({"holds": False, "detail": error.detail, **error.facts})
        else:
            show.evidence.broken(error, file)
        sys.exit(1)
    if as_json:
        console.print_json(show.evidence.proved_facts(proved))
    else:
        show.evidence.proved(proved)
