"""Pure mathematics: from a mechanism to its cost, from a cost to epsilon, from a budget to a limit.

    gdp            mu-GDP and its (epsilon, delta) curve, trade-off function and attack rates
    clt            the central-limit estimates of DP-SGD
    closed_forms   pure DP and Laplace as GDP
    numbers        numbers as they were written, exactly
    amounts        from exact or bounded quantities to integer amounts, outward
    mechanisms     what a run declares, and its cost
    budgets        what a steward declares, and its limit
    plan           the inverse: what would fit

Nothing here knows a database, a clock or HTTP.
"""

from typing import Final

ACCOUNTANT: Final = "gdp-1"
"""Names the rules by which costs were worked out. It changes whenever a cost could come out otherwise."""
