"""The methods that a comparison knows by name, and how large each must be for a budget of parameters."""

import dataclasses
import difflib
import functools
from collections.abc import Callable

import jax

from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.methods import METHODS, Inducer, LoRA, ParallelAdapter, PTuningV2
from jaxprefix.methods.base import Method
from jaxprefix.methods.summaries import SUMS
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
      summary: what it is, in one line.
    """

    name: str
    method: Method | Callable[[int], Method]
    rate: float
    summary: str = ""

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
    """The entries by name: every method that says its usual rate, and sums of them. Prefixes take what is no size of
    theirs from the config's method where that is a prefix (`PrefixMethod.of_size`), so that all of them start alike."""
    known = [
        Entry(
            cls.method_name,
            functools.partial(cls.of_size, like=run_method) if cls.size_fields else cls(),
            cls.usual_rate,
            cls.summary,
        )
        for cls in METHODS
        if cls.usual_rate is not None
    ]
    return {entry.name: entry for entry in [*known, *_sums(run_method)]}


def _sums(run_method: Method) -> tuple[Entry, ...]:
    def prefix(length: int) -> Method:
        return PTuningV2.of_size(length, run_method)

    return (
        Entry(
            "inducer_lora",
            lambda size: Inducer.of_size(size) + LoRA.of_size(size),
            5e-3,
            SUMS["inducer_lora"],
        ),
        Entry(
            "inducer_adapter",
            lambda size: Inducer.of_size(size) + ParallelAdapter.of_size(4 * size),
            5e-3,
            SUMS["inducer_adapter"],
        ),
        Entry("prefix_lora", lambda size: prefix(size) + LoRA.of_size(size), 1e-2, SUMS["prefix_lora"]),
        Entry(
            "mam",
            lambda size: prefix(size) + ParallelAdapter(width=size, scale=4.0),
            5e-3,
            SUMS["mam"],
        ),
    )


ENTRIES = {name: entry.summary for name, entry in entries_for(PTuningV2()).items()}
"""The names that `compare` knows, with their summaries."""


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
