"""Policies whose actions are fixed, so that runs can be compared number by number."""
