"""Invariances of every method and option as one table: see `tests/test_invariances.py`."""
