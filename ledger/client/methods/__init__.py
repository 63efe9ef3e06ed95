"""The methods of `Ledger` and `AsyncLedger`, one for each call, by noun.

A method here makes a `Call`. The two classes in `ledgers` send it in different ways, and so return different things.
To add a call, add a method to the class of its noun; nothing else of the client changes.
"""

from __future__ import annotations

from typing import Generic

from ledger.client.methods.accountant import Accountant
from ledger.client.methods.alerts import Alerts
from ledger.client.methods.datasets import Datasets
from ledger.client.methods.journals import DatasetJournals, TenantJournals
from ledger.client.methods.keys import Keys
from ledger.client.methods.kinds import Answer, Answers, Done, Scope, Size
from ledger.client.methods.proposals import Proposals
from ledger.client.methods.reports import Reports
from ledger.client.methods.runs import Runs


class Methods(
    Runs[Answer, Answers, Scope],
    Accountant[Answer],
    Datasets[Answer, Answers],
    DatasetJournals[Answer, Answers, Size],
    Keys[Answer, Answers, Done],
    Proposals[Answer, Answers],
    TenantJournals[Answer, Answers, Size],
    Alerts[Answer, Answers],
    Reports[Size],
    Generic[Answer, Answers, Done, Scope, Size],
):
    """The calls of the ledger. Their examples are one session, in the order of these classes."""
