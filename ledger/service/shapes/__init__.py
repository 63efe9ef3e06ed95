"""The shapes of answers, one module for each noun.

A use case returns them, the OpenAPI document describes them, a terminal renders them. They are dictionaries that mypy
checks where they are built; nothing validates them again when a request is answered.
"""
