"""The audit report: what a journal says of a dataset, a project or a tenant, for whoever trusts nothing.

    source      what a report is made of: journals that can be read from the beginning as often as is needed
    reader      such journals out of the store
    standing    the first pass: what a journal adds up to, in integers, at both ends of the period
    runs        the second pass: every run with all that is known of it, and what stands beside the runs
    words       the sentences: what was assumed, what the verdict is, how to work it out again
    document    the document, in JSON, a part at a time; `schema.json` says what stands in it
    text        values as JSON, every digit as it was written
    view        a document with its lists cut to what a page can hold
    sections    the document to read, as blocks, a module for each group of sections; `phrases` is their wording
    blocks      what it is made of: headings, tables, facts, figures
    figures     its figures, drawn from the numbers that stand in it
    html, pdf   the document to read; `table` its runs as CSV
    forms       all of these by name
    process     a process that makes reports; `pool` a bounded number of them

The JSON comes first: the others are made from it and from nothing else. All of it is a function of the journal: the
same journal and the same question give the same bytes. Importing this package loads none of it.
"""
