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
    ) -> Size:
        """Write the audit report of a dataset, of a project, or of the tenant where neither is named, to a file, and
        return how many bytes that were.

        format: json, html, pdf or csv. since, until: the period, from the one and before the other; all when left out.

        >>> before = file.tell()
        >>> ledger.report(file, dataset="mnist", format="csv") == file.tell() - before
        True
        """
        call = calls.report(dataset, project, form=format, since=since, until=until)
        return self._stream(call, file)
