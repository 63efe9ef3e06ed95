"""How receipts, proofs and verified exports look in a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ledger.cli.show.console import ACCOUNTS_SHOWN_MAX, counted, err, new_grid, new_table, number, out
from ledger.core.amounts import Amount
from ledger.core.datasets import Account, AccountKey
from ledger.errors import JournalBroken, LedgerError
from ledger.verifier.proofs import Proved
from ledger.verifier.verify import Verified, VerifiedTenant, Vouched

if TYPE_CHECKING:
    from ledger.client.receipts import Receipt
    from ledger.service.shapes.runs import ReceiptShown


_COMPARE: Final = (
    "Compare the head with one that you got from elsewhere: an export alone cannot show that it is the newest."
)


def checked(found: Sequence[Mapping[str, Any]]) -> None:
    """What `check` found."""
    table = new_table("tenant", "dataset", "entries", "", right=("entries",))
    for result in found:
        verdict = Text("holds", style="green")
        if result["error"] is not None:
            verdict = Text(result["error"], style="bold red")
        table.add_row(escape(result["tenant"]), result["dataset"] or "", f"{result['entries']:,}", verdict)
    out.print(table if found else "There are no tenants yet.")


def receipt(found: Receipt) -> None:
    """That a receipt is good, and of what."""
    out.print(Text.assemble(("good", "bold green"), f"  the receipt of run {found.run}, {found.state}"))
    grid = new_grid()
    grid.add_row("tenant", escape(f"{found.tenant} ({found.tenant_id})"))
    for place, each in enumerate(found.datasets):
        parts = "" if each.partitions is None else f" ({', '.join(each.partitions)})"
        grid.add_row("" if place else "datasets", f"{each.name}{parts}, entry {each.seq:,}")
    if found.project is not None:
        grid.add_row("project", found.project)
    grid.add_row("mechanism", f"{found.mechanism_type}, {found.mechanism_digest}")
    grid.add_row("cost", _mu(Amount(found.mu_sq_pico, found.delta_atto)))
    grid.add_row("valid until", found.valid_until.isoformat())
    out.print(grid)
    if found.state == "held":
        out.print("It is an approval, which can still be voided: no job may begin by it.")


def rejected(error: LedgerError) -> None:
    """Why a receipt lets nothing begin."""
    err.print(Text.assemble(("not good", "bold red"), f"  {error.detail}"))


def received(answer: ReceiptShown) -> None:
    """A receipt as the server gives it."""
    err.print(Text.assemble((answer["state"], "bold"), f"  run {answer['run']}"))
    if answer["state"] == "held":
        err.print("No job may begin by it: privacy-ledger start, and the receipt after that.")
    out.print(answer["receipt"], markup=False)


def verified_facts(found: Verified | VerifiedTenant) -> dict[str, Any]:
    """What an export that holds says, for --json."""
    if isinstance(found, VerifiedTenant):
        return {
            "holds": True,
            "tenant": found.tenant,
            "seq": found.journal.seq,
            "hash": found.journal.head.hex(),
            **_vouched_facts(found.vouched),
            "second_steward": found.journal.second_steward,
            "keys": {
                str(id_): {"name": key.name, "role": key.role, "is_revoked": key.is_revoked}
                for id_, key in found.journal.keys.items()
            },
        }
    return {
        "holds": True,
        "tenant": found.tenant,
        "dataset": found.dataset,
        "seq": found.journal.seq,
        "hash": found.journal.head.hex(),
        **_vouched_facts(found.vouched),
        "state": found.journal.state,
        "limit": _facts(found.journal.limit),
        "limit_highest": _facts(found.journal.limit_highest),
        "accounts": [
            {**account.key.facts(), **account.facts()}
            for account in sorted(found.journal.accounts.values(), key=lambda account: _name(account.key))
        ],
        "runs": {str(run): state for run, (state, _) in found.journal.runs.items()},
    }


def _vouched_facts(vouched: Vouched) -> dict[str, Any]:
    found = {"heads": vouched.heads, "receipts": vouched.receipts, "earlier": vouched.earlier}
    return {
        "root": vouched.root.hex(),
        "signed_by": vouched.kid,
        "is_trusted": vouched.is_trusted and vouched.kid is not None,
        "contains": found,
    }


def _vouched(vouched: Vouched, grid: Table) -> None:
    """What speaks for an export, and what does not."""
    if vouched.kid is None:
        grid.add_row("signed by", Text("nobody: version 1 had no signature", style="yellow"))
    elif vouched.is_trusted:
        grid.add_row("signed by", f"{vouched.kid}, one of the keys you gave")
    else:
        told = f"{vouched.kid}, which came with the export itself: anybody could have made it. Say --jwks"
        grid.add_row("signed by", Text(told, style="yellow"))
    held = (
        (vouched.receipts, "receipt", "receipts"),
        (vouched.heads, "earlier head", "earlier heads"),
        (vouched.earlier, "entry of the earlier export", "entries of the earlier export"),
    )
    if any(count for count, *_ in held):
        grid.add_row("contains", ", ".join(counted(*each) for each in held if each[0]))


def proved_facts(found: Proved) -> dict[str, Any]:
    """What a proof that holds shows, for --json."""
    return {
        "holds": True,
        "kind": found.kind,
        "tenant": found.tenant,
        "dataset": found.dataset,
        **({"seq": found.seq, "hash": found.hash} if found.kind == "inclusion" else {"from": found.seq}),
        "size": found.size,
        "root": found.root,
        "signed_by": found.kid,
        "receipts": found.receipts,
    }


def proved(found: Proved) -> None:
    """That a proof holds, and what it shows."""
    where = f"the tenant {found.tenant}" if found.dataset is None else f"{found.dataset} of {found.tenant}"
    out.print(Text.assemble(("holds", "bold green"), f"  {where}"))
    grid = new_grid()
    if found.kind == "inclusion":
        grid.add_row("entry", f"{found.seq:,} is among the first {found.size:,}")
        grid.add_row("its hash", str(found.hash))
        grid.add_row("named by", f"{counted(found.receipts, 'receipt')} of it" if found.receipts else "none given")
    else:
        grid.add_row("history", f"of {found.size:,} entries begins with that of {found.seq:,}, as it was signed")
    grid.add_row("root", found.root)
    grid.add_row("signed by", found.kid)
    out.print(grid)


def _facts(amount: Amount | None) -> dict[str, str] | None:
    return None if amount is None else amount.facts()


def _name(key: AccountKey) -> tuple[str, ...]:
    """What an account is called, such that those of the dataset itself come first."""
    return (key.project or "", str(key.principal_id or ""), key.partition or "")


def verified(found: Verified) -> None:
    """That an export holds, and what it says."""
    out.print(Text.assemble(("holds", "bold green"), f"  {found.dataset} of {found.tenant}"))
    grid = new_grid()
    grid.add_row("entries", f"{found.journal.seq:,}")
    grid.add_row("head", found.journal.head.hex())
    _vouched(found.vouched, grid)
    if found.journal.limit is not None and found.journal.limit_highest is not None:
        grid.add_row("limit", _mu(found.journal.limit))
        if found.journal.limit_highest != found.journal.limit:
            grid.add_row("it was up to", _mu(found.journal.limit_highest))
    accounts = sorted(found.journal.accounts.values(), key=lambda account: _name(account.key))
    if len(accounts) == 1 and not accounts[0].key.facts():
        for part in ("spent", "held", "overdrawn"):
            grid.add_row(part, _mu(getattr(accounts[0], part)))
    states = [state for state, _ in found.journal.runs.values()]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    grid.add_row("runs", counted or "none")
    out.print(grid)
    if len(accounts) > 1:
        _accounts(accounts)
    out.print(_COMPARE)


def verified_tenant(found: VerifiedTenant) -> None:
    """That an export of a tenant's own journal holds, and what it says."""
    out.print(Text.assemble(("holds", "bold green"), f"  the tenant {found.tenant}"))
    grid = new_grid()
    grid.add_row("entries", f"{found.journal.seq:,}")
    grid.add_row("head", found.journal.head.hex())
    _vouched(found.vouched, grid)
    revoked = sum(key.is_revoked for key in found.journal.keys.values())
    grid.add_row("keys", f"{len(found.journal.keys)} made, {revoked} of them revoked")
    grid.add_row("takes two", "yes" if found.journal.second_steward else "no")
    out.print(grid)
    out.print(_COMPARE)


def _mu(amount: Amount) -> str:
    pico = amount.mu_sq_pico
    return f"mu {number(math.sqrt(pico) / 1e6)} ({pico:,} × 1e-12 of mu²)"


def _accounts(accounts: Sequence[Account]) -> None:
    """What is spent and held where, the fullest first, as many as a person reads."""
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
    """Where an export does not hold."""
    err.print(Text.assemble(("does not hold", "bold red"), f"  {file}"))
    err.print(escape(error.detail))
