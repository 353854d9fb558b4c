"""What a run will train, what it costs, and whether it does what it is meant to."""

from jaxprefix.inspection.answers import Check
from jaxprefix.inspection.check import check
from jaxprefix.inspection.describe import describe

__all__ = ["Check", "check", "describe"]
