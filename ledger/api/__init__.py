"""The HTTP layer: check requests, call a service, and shape answers.

app        puts the application together; `create_app` is what an ASGI server runs
body       JSON as this ledger reads it
middleware what every request passes before a route: its size, and who is calling
gate       keys and roles of a call
routing    the route class: JSON bodies by our own rules
problems   errors as RFC 9457 problems; the one table of HTTP statuses
pages      the parameters of lists
done       answers to what can take two people
journals   what the calls of any journal share
schemas/   the shapes of answers that only HTTP has; all others are in `service.shapes`, requests in `service.requests`
services   what a call works with
tenants, datasets, runs, proposals, alerts, evaluate, plan, reports, system    the calls: each parses, calls one method
           of a service, and returns its result
"""
