"""Requests, validated: one module for each noun. `fields` has what requests share."""
