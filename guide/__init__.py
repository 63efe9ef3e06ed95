"""Builds the documentation site from the pages in `docs/` and from the code. `make docs` runs it.

__main__   builds the site into ledger/site, and checks its links
hooks      what MkDocs calls: the generated pages come in, links out of docs/ are rewritten
pages      the generated pages, by their path
http, commands, settings, errors, mechanisms, journal, report   one for each part of the reference
budgets    the table of budgets, and what an attacker gains
links      the link checker
markdown   tables and headings
"""
