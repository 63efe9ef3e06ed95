"""HTTP, and nothing else: what comes in is checked and handed on, what comes out is shaped.

app        puts the application together; `create_app` is what an ASGI server runs
body       JSON as this ledger reads it
gate       what every request passes: size, key, content type
problems   errors as RFC 9457 problems; the one table of HTTP statuses
pages      lists, limits and cursors
schemas    the shapes of requests and answers, for checking and for the OpenAPI document
tenants, datasets, runs, evaluate, system    the calls
"""
