"""The signed receipts of runs: fetch them from a server, and check them without one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer

from ledger.cli import show
from ledger.cli.options import RunId, uses_of
from ledger.cli.server_call import server
from ledger.cli.show import console
from ledger.errors import InvalidRequest, LedgerError

if TYPE_CHECKING:
    from ledger.service.shapes.common import EpsilonShown

FILE_BYTES_MAX: Final = 8 * 1024 * 1024
SHOWN_AT_DELTAS: Final = (1e-5, 1e-6)
"""The largest file that is read. A receipt has about a kilobyte, and more if it names many partitions."""
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
Output = Annotated[
    Path | None, typer.Option(help="The file to write; it is overwritten if it exists. - for standard output.")
]

receipt_app = typer.Typer(no_args_is_help=True, help="Signed receipts. A training job begins only with one.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(receipt_app, name="receipt", rich_help_panel="Runs")
    app.command(rich_help_panel="Audit", epilog="Example: privacy-ledger jwks --output jwks.json")(jwks)


@receipt_app.command("show", epilog="Example: privacy-ledger receipt show 018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77")
def receipt_show(run: RunId, output: Output = None, as_json: Json = False) -> None:
    """Get the receipt of a run: of its start, or of its approval if it is not started."""
    with server() as ledger:
        answer = ledger.receipt(run)
        about = None if as_json or output is not None else ledger.run_info(answer["run"])
    shown = partial(show.evidence.received, about=about)
    check = f"Check it: privacy-ledger receipt verify {output} --jwks FILE"
    message = f"the receipt of run {answer['run']}, {answer['state']}. {check}"
    _written(answer, answer["receipt"], output, as_json, show_answer=shown, message=message)


@receipt_app.command("verify", epilog="Example: privacy-ledger receipt verify run.jwt --jwks jwks.json --dataset mnist")
def receipt_verify(
    file: Annotated[Path, typer.Argument(help="A file with the receipt or attestation; - for standard input.")],
    jwks: Annotated[Path, typer.Option(help="The ledger's public keys, as `jwks` wrote them.")],
    tenant: Annotated[str | None, typer.Option(help="Require this tenant, by id or name.")] = None,
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Require this dataset: NAME or NAME:PARTITION,…. Can be repeated."),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Require the run with this id.")] = None,
    mechanism_file: Annotated[
        Path | None, typer.Option(help="Require the mechanism in this file: the JSON object that was requested.")
    ] = None,
    state: Annotated[
        str, typer.Option(help="Of a receipt: require a started run, or with held at least an approved one.")
    ] = "started",
    model: Annotated[
        list[Path] | None,
        typer.Option(help="Of an attestation: require that the run produced this file. Can be repeated."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a receipt or an attestation without a server. Exit status 1 if it does not verify or does not match the
    options."""
    if state not in ("started", "held"):
        raise InvalidRequest(f"state: {state!r} is not started or held", field="state")
    keys = _object(jwks, "jwks")
    mechanism = None if mechanism_file is None else _object(mechanism_file, "mechanism_file")
    required: dict[str, Any] = {"tenant": tenant, "run": run, "mechanism": mechanism}
    text = _text(file, "file").strip()
    if text.startswith("{"):
        _check_attestation(text, keys, datasets=dataset or [], models=model or [], as_json=as_json, **required)
        return
    if model:
        raise InvalidRequest(f"model: {file} is a receipt, which names no files. Give an attestation.", field="model")
    held = state == "held"
    _check_receipt(text, keys, datasets=uses_of(dataset or []), held=held, as_json=as_json, **required)


def _check_receipt(text: str, keys: dict[str, Any], *, held: bool, as_json: bool, **required: Any) -> None:
    from ledger.client.receipts import ReceiptRejected, verify_receipt

    try:
        verified = verify_receipt(text, jwks=keys, state="held" if held else "started", **required)
    except ReceiptRejected as error:
        _reject(error, as_json)
    epsilon = _epsilon_of(verified.mu_sq_pico, verified.delta_atto)
    if as_json:
        facts = {"good": True, **asdict(verified), "epsilon": epsilon}
        console.print_json(facts, default=lambda time: time.isoformat())
    else:
        show.evidence.receipt(verified, epsilon)


def _epsilon_of(mu_sq_pico: int, delta_atto: int) -> list[EpsilonShown]:
    """Return the epsilon of a cost at the usual deltas, rounded up; nothing in an installation that computes no
    costs."""
    from ledger.core.amounts import Amount

    try:
        from ledger.recompute.composed import gdp_epsilon
    except ImportError:
        return []
    found = [(delta, gdp_epsilon(Amount(mu_sq_pico, delta_atto), delta)) for delta in SHOWN_AT_DELTAS]
    return [{"delta": delta, "value": value if math.isfinite(value) else None} for delta, value in found]


def _check_attestation(text: str, keys: dict[str, Any], *, as_json: bool, **required: Any) -> None:
    from ledger.client.attestations import AttestationRejected, verify_attestation

    try:
        verified = verify_attestation(text, jwks=keys, **required)
    except AttestationRejected as error:
        _reject(error, as_json)
    if as_json:
        console.print_json({"good": True, "statement": verified.statement}, default=float)
    else:
        show.evidence.attestation(verified)


def _reject(error: LedgerError, as_json: bool) -> NoReturn:
    """Report why a signed statement was rejected, and exit with status 1."""
    if as_json:
        console.print_json({"good": False, "code": error.code, "detail": error.detail, **error.facts})
    else:
        show.evidence.rejected(error)
    sys.exit(1)


def jwks(output: Output = None, as_json: Json = False) -> None:
    """Get the public keys that verify receipts. To verify with them is to trust whatever they signed."""
    with server() as ledger:
        key_set = ledger.jwks()
    text = json.dumps(key_set, indent=2)
    keys = console.counted(len(key_set["keys"]), "public key")
    message = f"{keys}. Check a receipt: privacy-ledger receipt verify FILE --jwks {output}"
    _written(key_set, text, output, as_json, show_answer=lambda _: console.plain(text), message=message)


def _written(
    answer: Any, text: str, output: Path | None, as_json: bool, *, show_answer: Callable[[Any], None], message: str
) -> None:
    """Write the answer to a file, or show it."""
    if output is None:
        if as_json:
            console.print_json(answer)
        else:
            show_answer(answer)
        return
    if str(output) == "-":
        console.plain(text)
        return
    console.save(output, text + "\n")
    if as_json:
        console.print_json({"file": str(output)})
    else:
        console.err.print(f"{output}: {message}")


def _text(path: Path, name: str) -> str:
    try:
        if str(path) == "-":
            raw = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise InvalidRequest(f"{name}: {path} has more than {FILE_BYTES_MAX} bytes", field=name)
        return raw.decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}", field=name) from None


def _object(path: Path, name: str) -> dict[str, Any]:
    from ledger.canonical import parse

    try:
        value = parse(_text(path, name))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: {path} is not a JSON object", field=name)
    return value
