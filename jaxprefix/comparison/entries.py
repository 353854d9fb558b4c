"""The methods that a comparison knows by name, and how large each must be for a budget of parameters."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

import jax

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.methods import (
    AdaptivePrefix,
    BitFit,
    FullFineTuning,
    HeadOnly,
    Inducer,
    KernelMix,
    LoRA,
    ParallelAdapter,
    PrefixTuning,
    PromptTuning,
    PTuningV2,
    SequentialAdapter,
)
from jaxprefix.methods.base import Method
from jaxprefix.methods.prefix import PrefixMethod
from jaxprefix.trees import count

LARGEST = 4096
"""No size is tried beyond this."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method in a comparison.

    Attributes:
      name: of its row.
      method: the method, or a function that makes it of a size (a length, a rank) that a budget decides.
      rate: the usual learning rate, around which the rates to be tried lie.
    """

    name: str
    method: Method | Callable[[int], Method]
    rate: float

    def sized(self, budget: int, dims: Dims, largest: int = LARGEST) -> Method:
        """The method whose leaves are nearest to `budget` parameters; of two equally near ones the smaller.

        Args:
          budget: parameters, without the head's.
          dims: of the backbone.
          largest: the largest size that may be tried.
        """
        if isinstance(self.method, Method):
            return self.method
        low, high = 1, max(1, largest)
        while high - low > 1:  # more of a size is never fewer parameters
            middle = (low + high) // 2
            low, high = (middle, high) if parameters(self.method(middle), dims) <= budget else (low, middle)
        return min((self.method(size) for size in (low, high)), key=lambda made: abs(parameters(made, dims) - budget))


def parameters(method: Method, dims: Dims) -> int:
    """The number of a method's own leaves; nothing is computed."""
    module = method.build(dims)
    return count(jax.eval_shape(module.init, jax.random.key(0)).get("params", {}))


def entries_for(run_method: Method) -> dict[str, Entry]:
    """The entries by name. Prefixes take what is no size of theirs (initial scale, dropout, position offset) from the
    config's method where that is a prefix, so that all of them start alike."""
    common = {"position_offset": False}
    if isinstance(run_method, PrefixMethod):
        common = {name: getattr(run_method, name) for name in ("position_offset", "dropout", "dropout_unit", "layers")}
    direct: dict[str, Any] = {**common, "init_std": getattr(run_method, "init_std", None)}

    def prefix(length: int) -> PTuningV2:
        return PTuningV2(length=length, **direct)

    known = (
        Entry("p_tuning_v2", prefix, 2e-2),
        Entry("prefix_tuning", lambda size: PrefixTuning(length=16, mlp_width=size, **common), 5e-3),
        Entry("adaptive_prefix", lambda size: AdaptivePrefix(length=size, **direct), 2e-2),
        Entry("prompt_tuning", lambda size: PromptTuning(length=size, init_std=direct["init_std"]), 2e-2),
        Entry("inducer", lambda size: Inducer(value_rank=size, key_rank=size), 5e-3),
        Entry("inducer_lora", lambda size: Inducer(value_rank=size, key_rank=size) + LoRA(rank=size), 5e-3),
        Entry(
            "inducer_adapter",
            lambda size: Inducer(value_rank=size, key_rank=size) + ParallelAdapter(width=4 * size),
            5e-3,
        ),
        Entry("lora", lambda size: LoRA(rank=size), 5e-3),
        Entry("prefix_lora", lambda size: prefix(size) + LoRA(rank=size), 1e-2),
        Entry("parallel_adapter", lambda size: ParallelAdapter(width=size), 5e-3),
        Entry("sequential_adapter", lambda size: SequentialAdapter(width=size), 5e-3),
        # He et al. 2022: a short prefix and a scaled adapter beside the MLP
        Entry("mam", lambda size: prefix(size) + ParallelAdapter(width=size, scale=4.0), 5e-3),
        Entry(
            "kernel_mix",
            lambda size: KernelMix(query_rank=size, rank=size, shared_query_rank=size, shared_rank=size),
            5e-3,
        ),
        Entry("bitfit", BitFit(), 5e-3),
        Entry("head_only", HeadOnly(), 1e-2),
        Entry("full", FullFineTuning(), 3e-4),
    )
    return {entry.name: entry for entry in known}


ENTRIES = tuple(entries_for(HeadOnly()))
"""The names that `compare` knows."""


def find_entry(name: str, known: dict[str, Entry]) -> Entry:
    """The entry of a name.

    Raises:
      UserError: there is none; the nearest one is named.
    """
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"the nearest is {near[0]}" if near else f"known are {', '.join(known)}"
        raise UserError(f"the comparison knows no method {name!r}; {hint}.")
    return known[name]
