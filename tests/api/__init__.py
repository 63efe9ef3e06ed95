"""Tests of the API: what each call does, over HTTP."""
