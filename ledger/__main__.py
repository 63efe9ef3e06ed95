"""`python -m ledger` is `privacy-ledger`."""

from ledger.cli import main

main()
