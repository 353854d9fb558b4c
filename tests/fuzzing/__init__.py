"""Random and mutated input for each gate of the package (`gate.py`); `benchmarks/fuzz.py` runs more of it."""
