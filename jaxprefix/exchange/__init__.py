"""Prefixes to and from other libraries: their tensors on one side, our leaves on the other.

`layout.py` says how a prefix lies in one table, `converted.py` what a foreign adapter is in our terms, `files.py` reads
tensors; `peft.py`, `p_tuning_v2.py` and `adapters_library.py` know one format each, as pure functions over dicts of
numpy arrays and as functions over folders.
"""
