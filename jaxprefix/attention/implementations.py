"""The implementations of `kernel_attention` by name, what each can do, and which one a call took.

An implementation is a module (or any object) with two functions, and one entry of `IMPLEMENTATIONS`:

- `attend(q, k, v, *, masks, virtual, bias, scale, softcap, dropout)`, which computes what `kernel_attention` says, its
  arguments checked; masks and bias are structure, which it may make dense (`MaskStructure.dense`, `dense_bias`);
- `supports(masks, shapes)`: None where it can, else the reason why not, as the end of a sentence.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxprefix.attention import reference, xla
from jaxprefix.attention.biases import Bias
from jaxprefix.attention.masks import MaskStructure
from jaxprefix.attention.virtual_tokens import VirtualTokens
from jaxprefix.errors import UserError


class Shapes(NamedTuple):
    """A call of `kernel_attention` without its numbers.

    Attributes:
      q, k, v: shape and dtype of queries, keys and values.
      virtual: the virtual tokens with shapes and dtypes for leaves: which fields there are, which are per row.
      bias: likewise; its class says which kind it is.
      softcap: what bounds the scores.
      dropout: whether weights are dropped.
    """

    q: jax.ShapeDtypeStruct
    k: jax.ShapeDtypeStruct
    v: jax.ShapeDtypeStruct
    virtual: VirtualTokens | None = None
    bias: Any = None
    softcap: float | None = None
    dropout: bool = False

    @classmethod
    def of(
        cls,
        q: Array,
        k: Array,
        v: Array,
        virtual: VirtualTokens | None,
        bias: Bias | None,
        softcap: float | None,
        dropout: Any,
    ) -> "Shapes":
        """The shapes of arrays."""
        arrays = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.result_type(leaf)), (q, k, v, virtual, bias)
        )
        return cls(*arrays[:3], virtual=arrays[3], bias=arrays[4], softcap=softcap, dropout=dropout is not None)


IMPLEMENTATIONS: dict[str, Any] = {
    "xla": xla,
    "reference": reference,
}
"""By name. `xla` computes everything, so that it stands in for one that cannot."""

DEFAULT = "xla"  # on every backend


class Choice(NamedTuple):
    """The implementation that a call took: its `name`, and where another was asked for, which (`asked`) and why that
    one cannot (`reason`)."""

    name: str
    asked: str
    reason: str | None = None


_recorders: contextvars.ContextVar[tuple[list[Choice], ...]] = contextvars.ContextVar("recorders", default=())


@contextlib.contextmanager
def recorded_choices() -> Iterator[list[Choice]]:
    """Collects the choice of every attention that is traced inside, in their order: around `jax.eval_shape` of a model
    it says how the model would attend, and computes nothing."""
    found: list[Choice] = []
    token = _recorders.set((*_recorders.get(), found))
    try:
        yield found
    finally:
        _recorders.reset(token)


def choose(name: str, masks: MaskStructure, shapes: Shapes) -> Choice:
    """The implementation of this name, or `xla` where it cannot compute this call.

    Raises:
      UserError: there is none of this name.
    """
    if name not in IMPLEMENTATIONS:
        names = [repr(known) for known in IMPLEMENTATIONS]
        raise UserError(
            f"there is no attention implementation {name!r}; choose {', '.join(names[:-1])} or {names[-1]}."
        )
    reason = IMPLEMENTATIONS[name].supports(masks, shapes)
    choice = Choice(name if reason is None else "xla", name, reason)
    for recorder in _recorders.get():
        recorder.append(choice)
    return choice
