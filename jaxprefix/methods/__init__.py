"""What is trained: one paper per file."""

from jaxprefix.methods.adaptive_prefix import AdaptivePrefix
from jaxprefix.methods.base import Combined, Method, parts_of
from jaxprefix.methods.baselines import BitFit, FullFineTuning, HeadOnly
from jaxprefix.methods.bottleneck import ParallelAdapter, SequentialAdapter
from jaxprefix.methods.inducer import Inducer
from jaxprefix.methods.kernel_mix import KernelMix
from jaxprefix.methods.lora import LoRA
from jaxprefix.methods.multi_head_adapter import MultiHeadAdapter
from jaxprefix.methods.new_tokens import NewTokens
from jaxprefix.methods.p_tuning_v2 import PTuningV2
from jaxprefix.methods.placed import At
from jaxprefix.methods.prefix_tuning import PrefixTuning, collapse
from jaxprefix.methods.prompt_tuning import PromptTuning

METHODS = (
    *(AdaptivePrefix, At, BitFit, Combined, FullFineTuning, HeadOnly, Inducer, KernelMix, LoRA, MultiHeadAdapter),
    *(NewTokens, PTuningV2, ParallelAdapter, PrefixTuning, PromptTuning, SequentialAdapter),
)
"""Every method that comes with the package."""

__all__ = ["METHODS", "Method", "collapse", "parts_of", *sorted(cls.__name__ for cls in METHODS)]
