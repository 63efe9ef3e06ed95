"""The use cases, one module for each noun, for HTTP, the command line and the background threads. Knows no HTTP.

runs, planner, datasets, proposals, tenants, keys, alerts, journals    the use cases; `use_cases` holds one of each
requests/, shapes/    what comes in, checked; what goes out, described once
catalogue, definitions, balances, forecasts, two_people, pages, answers    what use cases share
costing, certificates    what a run costs
apart, computing, inverting    processes that compute costs, and what they import
writer, transactions    the only place that commits a decision, and how a coroutine waits for it
"""
