"""Calls about alerts and the forecast."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ledger.client.calls import Call, get, listed, path
from ledger.client.methods.kinds import Answer, Answers, Calls, Lists
from ledger.client.wire import encode

FORECASTS_LIMIT: Final = 10
"""How many forecasts one page has at most: each takes a while."""


class Alerts(Calls[Answer], Lists[Answers]):
    """Read alerts, set which are raised, and forecast."""

    def alerts(self, *, kind: str | None = None, dataset: str | None = None, state: str | None = None) -> Answers:
        """Iterate over the tenant's alerts, newest first, with the state of delivery: pending, delivered, failed, or
        none if there was no webhook.

        >>> sorted({alert["kind"] for alert in ledger.alerts(dataset="clicks")})
        ['frozen', 'proposal']
        """
        return self._list(listed("alerts", kind=kind, dataset=dataset, state=state))

    def alerting(self) -> Answer:
        """Return which alerts the tenant raises, and where they are sent.

        >>> ledger.alerting()["thresholds"]
        [50, 80, 90, 95, 100]
        """
        return self._send(get("alerting"))

    def set_alerting(self, changes: Mapping[str, Any], *, reason: str) -> Answer:
        """Set which alerts are raised and sent: `thresholds`, `refusals_in_a_row`, `forecast_days`, `webhook`, `heads`.

        Members that are left out do not change; None turns one off.

        >>> ledger.set_alerting({"thresholds": [75], "forecast_days": None}, reason="less noise")["thresholds"]
        [75]
        """
        content = encode({**changes, "reason": reason}).encode()
        headers = {"Content-Type": "application/json"}
        return self._send(Call("PUT", path("alerting"), is_repeatable=True, headers=headers, content=content))

    def test_alerting(self) -> Answer:
        """Raise a test alert, to check that alerts arrive.

        >>> ledger.test_alerting()["delivery"]["state"]
        'none'
        """
        return self._send(Call("POST", path("alerting", "test"), is_repeatable=False))

    def forecast(self, name: str) -> Answer:
        """Estimate how long a dataset's budget lasts at the rate of the last four weeks.

        >>> ledger.forecast("clicks")["accounts"][0]["is_enough"]
        False
        """
        return self._send(get("datasets", name, "forecast"))

    def forecasts(self) -> Answers:
        """Iterate over the same estimates of all datasets that the key may read, by name.

        >>> [forecast["dataset"] for forecast in ledger.forecasts()]
        ['clicks', 'events', 'mnist', 'no-bots']
        """
        return self._list(get("forecasts", limit=FORECASTS_LIMIT))
