"""What a run will train, what it costs, whether it does what it is meant to, and what its gates came to."""

from jaxprefix.inspection.answers import Check
from jaxprefix.inspection.check import check
from jaxprefix.inspection.describe import describe
from jaxprefix.inspection.gates import Gates, p_tuning_v2_plus, read_gates

__all__ = ["Check", "Gates", "check", "describe", "p_tuning_v2_plus", "read_gates"]
