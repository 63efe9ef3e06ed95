"""HTTP, and nothing else: what comes in is checked and handed on, what comes out is shaped.

app        puts the application together; `create_app` is what an ASGI server runs
body       JSON as this ledger reads it
middleware what every request passes before a route: its size, and who is calling
gate       keys and roles of a call
routing    the route class: JSON bodies by our own rules
problems   errors as RFC 9457 problems; the one table of HTTP statuses
pages      lists, limits and cursors
schemas/   the shapes of answers, by noun, for the OpenAPI document; those of requests are in `service.requests`
tenants, datasets, runs, evaluate, system    the calls
"""
