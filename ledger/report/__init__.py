"""The audit report of a dataset, a project or a tenant, made from journals alone.

    source      the question and the journals, which can be read from the beginning repeatedly
    reader      reads journals from the store
    standing    the first pass: the balances of a journal, in integers, at both ends of the period
    runs        the second pass: every run with all its facts, and the lists of refusals, overruns, voids and changes
    words       the sentences: verdict, assumptions, how to recompute
    document    the JSON document, part by part; `schema.json` describes it
    text        values as JSON, with every digit as it was written
    view        a document whose lists are cut to the size of a page
    sections    the readable document as blocks, a module for each group of sections; `phrases` has their wording
    blocks      the blocks: headings, tables, facts, figures
    figures     draws the figures from the numbers in the document
    html, pdf   the readable document; `table` its runs as CSV
    forms       all formats by name
    process     a process that makes reports; `pool` a bounded number of them

The JSON comes first; the other formats are made from it alone. The same journal and the same question give the same
bytes. Importing this package loads none of its modules.
"""
