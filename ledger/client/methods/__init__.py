"""What can be asked of a ledger: every call described once, by noun, for `Ledger` and `AsyncLedger` alike.

A method here makes a `Call`; the two classes in `ledgers` differ in how they carry it out, and so in what they return.
A new call is a method in the class of its noun: nothing else of the client changes.
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
    """The calls of the ledger. Their examples make one session, in the order of the classes here."""
