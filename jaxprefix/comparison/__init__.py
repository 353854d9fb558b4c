"""Methods side by side on one task."""

from jaxprefix.comparison.comparing import FACTORS, Comparison, compare
from jaxprefix.comparison.entries import ENTRIES, Entry

__all__ = ["ENTRIES", "FACTORS", "Comparison", "Entry", "compare"]
