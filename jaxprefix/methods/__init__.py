"""What is trained: one paper per file."""

from jaxprefix.methods.p_tuning_v2 import PTuningV2
from jaxprefix.methods.prefix_tuning import PrefixTuning, collapse
from jaxprefix.methods.yardsticks import FullFineTuning, HeadOnly

__all__ = ["FullFineTuning", "HeadOnly", "PTuningV2", "PrefixTuning", "collapse"]
