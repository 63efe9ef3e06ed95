"""The call for an audit report."""

from __future__ import annotations

from datetime import datetime

from ledger.client import calls
from ledger.client.methods.kinds import BinaryFile, Size, Streams


class Reports(Streams[Size]):
    """Write audit reports to files."""

    def report(
        self,
        file: BinaryFile,
        *,
        dataset: str | None = None,
        project: str | None = None,
        format: str = "json",  # noqa: A002 (the contract's name)
        since: str | datetime | None = None,
        until: str | datetime | None = None,
        made_on: str | None = None,
        contact: str | None = None,
    ) -> Size:
        """Write the audit report of a dataset, a project, or the tenant if neither is named, to a binary file, and
        return its size in bytes.

        format: json, html, pdf or csv. since, until: the period, including `since` and excluding `until`; default: all.
        made_on: a date such as `2026-10-01`, and contact: whom to ask, as the report states them; default: none.

        >>> before = file.tell()
        >>> ledger.report(file, dataset="mnist", format="csv") == file.tell() - before
        True
        """
        call = calls.report(dataset, project, form=format, since=since, until=until, made_on=made_on, contact=contact)
        return self._stream(call, file)
