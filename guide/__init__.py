"""Builds the documentation site from the pages in `docs/` and from the code. `make docs` runs it.

__main__   builds the site into ledger/site, and checks its links
hooks      what MkDocs calls while it builds
beside     files outside docs/ that are pages too, and where links to them lead
pages      the generated pages, by their path
http, commands, settings, errors, mechanisms, journal, report   one for each part of the reference
budgets    the table of budgets, and what an attacker gains
links      the link checker
schemas    JSON Schema in words
markdown   tables and headings
"""
