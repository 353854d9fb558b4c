"""What a run will train, what it costs, and what its gates came to."""

from jaxprefix.inspection.describe import describe
from jaxprefix.inspection.gates import Gates, p_tuning_v2_plus, read_gates

__all__ = ["Gates", "describe", "p_tuning_v2_plus", "read_gates"]
