"""Print receipts, proofs and verified exports in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from ledger.cli.show.console import ACCOUNTS_SHOWN_MAX, counted, err, in_one_line, new_grid, new_table, number, out
from ledger.cli.show.runs import cost
from ledger.core.amounts import Amount
from ledger.core.datasets import Account, AccountKey
from ledger.errors import JournalBroken, LedgerError
from ledger.verifier.proofs import Proved
from ledger.verifier.verify import Verified, VerifiedTenant, Vouched

if TYPE_CHECKING:
    from ledger.client.attestations import Attestation
    from ledger.client.receipts import Receipt
    from ledger.service.shapes.common import EpsilonShown
    from ledger.service.shapes.runs import ReceiptShown

FILES_SHOWN_MAX: Final = 20


_COMPARE: Final = "Compare the head with one from another source: an export alone cannot show that it is the newest."
_NOT_VOUCHED: Final = (
    "No key that you gave signed this export: anybody may have made it. Give the server's keys from"
    " /.well-known/jwks.json with --jwks FILE, or check only the journal with --unsigned."
)


def checked(results: Sequence[Mapping[str, Any]]) -> None:
    """Print the result of `check`."""
    table = new_table("tenant", "dataset", "entries", "", right=("entries",))
    for result in in_one_line(results):
        verdict = Text("holds", style="green")
        if result["error"] is not None:
            verdict = Text(result["error"], style="bold red")
        elif "remark" in result:
            verdict = Text(f"holds; {result['remark']}", style="yellow")
        table.add_row(result["tenant"], result["dataset"] or "", f"{result['entries']:,}", verdict)
    out.print(table if results else "There are no tenants yet.")


def receipt(statement: Receipt, epsilon: Sequence[EpsilonShown]) -> None:
    """Print a receipt that was verified. epsilon: of its cost; none if it cannot be computed here."""
    out.print(Text.assemble(("good", "bold green"), f"  the receipt of run {statement.run}, {statement.state}"))
    grid = new_grid()
    grid.add_row("tenant", in_one_line(f"{statement.tenant} ({statement.tenant_id})"))
    for index, dataset in enumerate(statement.datasets):
        parts = "" if dataset.partitions is None else f" ({_listed(dataset.partitions)})"
        grid.add_row("" if index else "datasets", f"{dataset.name}{parts}, entry {dataset.seq:,}")
    if statement.project is not None:
        grid.add_row("project", statement.project)
    grid.add_row("mechanism", f"{statement.mechanism_type}, {statement.mechanism_digest}")
    grid.add_row("cost", _mu(Amount(statement.mu_sq_pico, statement.delta_atto)))
    for item in epsilon:
        of_delta, value = f"at delta {number(item['delta'])}", item["value"]
        grid.add_row("", f"epsilon {number(value)} {of_delta}" if value is not None else f"no epsilon {of_delta}")
    grid.add_row("begin by", statement.begin_by.isoformat())
    grid.add_row("start by" if statement.state == "held" else "settle by", statement.due.isoformat())
    out.print(grid)
    if epsilon:
        out.print(
            "Epsilon is that of this cost, and does not add up. A run that was costed beside what was left has more by"
            f" itself: privacy-ledger run show {statement.run[:8]}"
        )
    if statement.state == "held":
        out.print("This receipt is of an approval, which can still be voided. A job must not begin with it.")


def _listed(partitions: Sequence[str]) -> str:
    more = len(partitions) - ACCOUNTS_SHOWN_MAX
    names = ", ".join(partitions[:ACCOUNTS_SHOWN_MAX]) or "no partition"
    return f"{names} and {more:,} more" if more > 0 else names


def rejected(error: LedgerError) -> None:
    """Print why a receipt was rejected."""
    err.print(Text.assemble(("not good", "bold red"), f"  {in_one_line(error.detail)}"))


def received(answer: ReceiptShown, *, about: Any = None) -> None:
    """Print a receipt from the server. about: its run, whose cost is printed too."""
    err.print(Text.assemble((answer["state"], "bold"), f"  run {answer['run']}"))
    if about is not None:
        grid = new_grid()
        cost(grid, about)
        err.print(grid)
    if answer["state"] == "held":
        err.print(
            f"A job must not begin with it: the run is not started. Start it: privacy-ledger start {answer['run']}"
        )
    else:
        err.print(f"A job may begin with it until {answer['begin_by']}.")
    out.print(answer["receipt"])


def verified_facts(export: Verified | VerifiedTenant, is_vouched: bool) -> dict[str, Any]:
    """Return the facts of a verified export, for --json. is_vouched: a trusted key signed it, or none is required."""
    return _facts_of_export(export) | ({} if is_vouched else {"holds": False, "detail": _NOT_VOUCHED})


def _facts_of_export(export: Verified | VerifiedTenant) -> dict[str, Any]:
    if isinstance(export, VerifiedTenant):
        return {
            "holds": True,
            "tenant": export.tenant,
            "seq": export.journal.seq,
            "hash": export.journal.head.hex(),
            **_vouched_facts(export.vouched),
            "second_steward": export.journal.second_steward,
            "keys": {
                str(id_): {"name": key.name, "role": key.role, "is_revoked": key.is_revoked}
                for id_, key in export.journal.keys.items()
            },
        }
    return {
        "holds": True,
        "tenant": export.tenant,
        "dataset": export.dataset,
        "seq": export.journal.seq,
        "hash": export.journal.head.hex(),
        **_vouched_facts(export.vouched),
        "state": export.journal.state,
        **({} if export.journal.backwards is None else {"backwards": export.journal.backwards}),
        "limit": _facts(export.journal.limit),
        "limit_highest": _facts(export.journal.limit_highest),
        "least_limit": _facts(export.journal.least_limit),
        "accounts": [
            {**account.key.facts(), **account.facts()}
            for account in sorted(export.journal.accounts.values(), key=lambda account: _name(account.key))
        ],
        "runs": {str(run): state for run, (state, _) in export.journal.runs.items()},
        "requests_left_out": dict(export.journal.withheld),
    }


def _vouched_facts(vouched: Vouched) -> dict[str, Any]:
    contained = {"heads": vouched.heads, "receipts": vouched.receipts, "earlier": vouched.earlier}
    return {
        "root": vouched.root.hex(),
        "signed_by": vouched.kid,
        "is_trusted": vouched.is_trusted and vouched.kid is not None,
        "contains": contained,
    }


def _vouched(vouched: Vouched, grid: Table) -> None:
    """Add who signed an export, and which kept receipts and heads it contains."""
    if vouched.kid is None:
        grid.add_row("signed by", Text("nobody: exports of version 1 are not signed", style="yellow"))
    elif vouched.is_trusted:
        grid.add_row("signed by", f"{vouched.kid}, one of the keys you gave")
    else:
        warning = f"{vouched.kid}, a key from the export itself"
        grid.add_row("signed by", Text(warning, style="yellow"))
    held = (
        (vouched.receipts, "receipt", "receipts"),
        (vouched.heads, "earlier head", "earlier heads"),
        (vouched.earlier, "entry of the earlier export", "entries of the earlier export"),
    )
    if any(count for count, *_ in held):
        grid.add_row("contains", ", ".join(counted(*words) for words in held if words[0]))


def proved_facts(proof: Proved) -> dict[str, Any]:
    """Return the facts of a verified proof, for --json."""
    return {
        "holds": True,
        "kind": proof.kind,
        "tenant": proof.tenant,
        "dataset": proof.dataset,
        **({"seq": proof.seq, "hash": proof.hash} if proof.kind == "inclusion" else {"from": proof.seq}),
        "size": proof.size,
        "root": proof.root,
        "signed_by": proof.kid,
        "receipts": proof.receipts,
    }


def proved(proof: Proved) -> None:
    """Print a verified proof."""
    where = f"the tenant {proof.tenant}" if proof.dataset is None else f"{proof.dataset} of {proof.tenant}"
    out.print(Text.assemble(("holds", "bold green"), f"  {in_one_line(where)}"))
    grid = new_grid()
    if proof.kind == "inclusion":
        grid.add_row("entry", f"{proof.seq:,} is among the first {proof.size:,}")
        grid.add_row("its hash", str(proof.hash))
        grid.add_row("named by", f"{counted(proof.receipts, 'receipt')} of it" if proof.receipts else "none given")
    else:
        grid.add_row("history", f"the journal of {proof.size:,} entries begins with that of {proof.seq:,}, as signed")
    grid.add_row("root", proof.root)
    grid.add_row("signed by", proof.kid)
    out.print(grid)


def _facts(amount: Amount | None) -> dict[str, str] | None:
    return None if amount is None else amount.facts()


def _name(key: AccountKey) -> tuple[str, ...]:
    """Return a sort key that puts the accounts of the dataset itself first."""
    return (key.project or "", str(key.principal_id or ""), key.partition or "")


def _verdict(about: str, is_vouched: bool) -> None:
    word = ("holds", "bold green") if is_vouched else ("adds up, but no trusted key signed it", "bold red")
    out.print(Text.assemble(word, f"  {in_one_line(about)}"))
    if not is_vouched:
        err.print(_NOT_VOUCHED)


def verified(export: Verified, is_vouched: bool) -> None:
    """Print whether an export verifies, and what it shows."""
    _verdict(f"{export.dataset} of {export.tenant}", is_vouched)
    grid = new_grid()
    grid.add_row("entries", f"{export.journal.seq:,}")
    grid.add_row("head", export.journal.head.hex())
    _vouched(export.vouched, grid)
    if (backwards := export.journal.backwards) is not None:
        grid.add_row("times", f"entry {backwards:,} has a time before that of the entry before it")
    if export.journal.limit is not None and export.journal.limit_highest is not None:
        grid.add_row("limit", _mu(export.journal.limit))
        if export.journal.limit_highest != export.journal.limit:
            grid.add_row("highest limit", _mu(export.journal.limit_highest))
    if (least := export.journal.least_limit) is not None:
        grid.add_row("least limit", f"{_mu(least)}; an indication, see docs/explanation/residual.md")
    accounts = sorted(export.journal.accounts.values(), key=lambda account: _name(account.key))
    if len(accounts) == 1 and not accounts[0].key.facts():
        for part in ("spent", "held", "overdrawn"):
            grid.add_row(part, _mu(getattr(accounts[0], part)))
    states = [state for state, _ in export.journal.runs.values()]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    grid.add_row("runs", counted or "none")
    for name, count in sorted(export.journal.withheld.items()):
        stand = (
            f"{count:,}, which are in the journal of {name}. Not checked here: that their accounts and times are those"
            " of the request"
        )
        grid.add_row("requests left out", Text(stand))
    out.print(grid)
    if len(accounts) > 1:
        _accounts(accounts)
    out.print(_COMPARE)


def verified_tenant(export: VerifiedTenant, is_vouched: bool) -> None:
    """Print whether an export of a tenant's own journal verifies, and what it shows."""
    _verdict(f"the tenant {export.tenant}", is_vouched)
    grid = new_grid()
    grid.add_row("entries", f"{export.journal.seq:,}")
    grid.add_row("head", export.journal.head.hex())
    _vouched(export.vouched, grid)
    revoked = sum(key.is_revoked for key in export.journal.keys.values())
    grid.add_row("keys", f"{len(export.journal.keys)} made, {revoked} of them revoked")
    grid.add_row("second steward", "yes" if export.journal.second_steward else "no")
    out.print(grid)
    out.print(_COMPARE)


def _mu(amount: Amount) -> str:
    pico = amount.mu_sq_pico
    return f"mu {number(math.sqrt(pico) / 1e6)} ({pico:,} × 1e-12 of mu²)"


def _accounts(accounts: Sequence[Account]) -> None:
    """Print what each account spent and holds, the fullest first, up to ACCOUNTS_SHOWN_MAX."""
    table = new_table("account", "limit", "spent", "held", right=("limit", "spent", "held"))
    fullest = sorted(accounts, key=lambda account: account.remaining.mu_sq_pico)
    for account in fullest[:ACCOUNTS_SHOWN_MAX]:
        amounts = (account.limit, account.spent, account.held)
        where = ", ".join(f"{name} {value}" for name, value in account.key.facts().items()) or "the dataset"
        table.add_row(where, *(number(math.sqrt(amount.mu_sq_pico) / 1e6) for amount in amounts))
    out.print(table)
    if len(fullest) > ACCOUNTS_SHOWN_MAX:
        out.print(f"and {len(fullest) - ACCOUNTS_SHOWN_MAX:,} more; --json has all of them")


def broken(error: JournalBroken, file: Path) -> None:
    """Print where an export does not verify."""
    err.print(Text.assemble(("does not hold", "bold red"), f"  {in_one_line(str(file))}"))
    err.print(in_one_line(error.detail))


def attestation(item: Attestation) -> None:
    """Print a verified attestation."""
    out.print(Text.assemble(("signed", "bold green"), f"  run {item.run}, settled {item.settled_at.isoformat()}"))
    grid = new_grid()
    for index, model in enumerate(item.models[:FILES_SHOWN_MAX]):
        text = f"{model.name}, {model.size:,} bytes, SHA-256 {model.sha256}"
        grid.add_row("" if index else "files", in_one_line(text))
    if len(item.models) > FILES_SHOWN_MAX:
        grid.add_row("", f"and {len(item.models) - FILES_SHOWN_MAX:,} more; --json has all of them")
    word = ", an estimate" if item.is_estimate else ""
    grid.add_row("by itself", f"mu {number(item.mu)}, delta {number(item.delta)}{word}")
    for delta, epsilon in item.epsilon:
        grid.add_row("", f"epsilon {number(epsilon)} at delta {number(delta)}")
    for index, dataset in enumerate(item.datasets[:FILES_SHOWN_MAX]):
        unit = f"{dataset.name} of {item.tenant}: {dataset.privacy_unit}, {dataset.adjacency}"
        grid.add_row("" if index else "datasets", in_one_line(f"{unit}, entry {dataset.seq:,}"))
    out.print(grid)
