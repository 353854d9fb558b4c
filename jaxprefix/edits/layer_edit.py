"""The hooks of an edit in one layer."""

from typing import ClassVar

from jax import Array
from jaxtyping import Float

from jaxprefix.attention import VirtualTokens
from jaxprefix.edits.context import Context
from jaxprefix.edits.dims import Dims


class LayerEdit:
    """Hooks of one edit in one layer; every default leaves the backbone as it is.

    Results are cast to the dtype of the tensor they replace by the caller. `z` is the input of a sublayer, `f` its
    output. Leaves are `[L, ...]` outside the stack, `[...]` inside the hooks. A dropout rate that one program is to
    serve many values of is a static field named `rate`, read through the context (`Context.method_rate`).

    Attributes:
      follows_attention: whether `rate` is one of attention weights, which follows the backbone's
        (`Context.attention_rate`).
    """

    follows_attention: ClassVar[bool] = False

    def virtual_count(self) -> int:
        """P, how many virtual tokens `virtual_tokens` adds in every layer; 0 where there are none."""
        return 0

    def virtual_tokens(self, x: Float[Array, "B T D"], ctx: "Context") -> VirtualTokens | None:
        """Virtual tokens of this layer's self-attention, from the layer's input `x`."""
        return None

    def before_project(self, name: str, x: Float[Array, "*B I"], ctx: "Context") -> Float[Array, "*B I"]:
        """Replaces the input `x` of the linear map `name`, before the product; names are those of `project`, which
        sees what comes of it."""
        return x

    def project(self, name: str, x: Float[Array, "*B I"], y: Float[Array, "*B O"], ctx: "Context") -> Array:
        """Replaces the output `y` of the linear map `name` (`q k v o up down`, where the MLP is gated `gate`) at input
        `x`."""
        return y

    def replace_values(
        self, k: Float[Array, "B S K E"], v: Float[Array, "B S K E"], ctx: "Context"
    ) -> Float[Array, "B S K E2"]:
        """Replaces the values `v` of the attention. It may append channels: the same attention weights then average
        them, and this edit's `after_attention` finds the averages behind the E channels of `o`, which it removes."""
        return v

    def after_attention(
        self,
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        v: Float[Array, "B S K E2"],
        o: Float[Array, "B T H E2"],
        lse: Float[Array, "B H T"],
        ctx: "Context",
    ) -> tuple[Float[Array, "B T H E3"], Float[Array, "B T D"] | None]:
        """Replaces the heads' outputs `o`; the second result, if any, is added after the output projection."""
        return o, None

    def after_mlp(self, z: Float[Array, "B T D"], f: Float[Array, "B T D"], ctx: "Context") -> Float[Array, "B T D"]:
        """Replaces the MLP's output `f` at its input `z`, before the residual dropout."""
        return f

    def after_mlp_dropout(
        self, z: Float[Array, "B T D"], f: Float[Array, "B T D"], ctx: "Context"
    ) -> Float[Array, "B T D"]:
        """Replaces the MLP's output `f` at its input `z`, after the residual dropout."""
        return f

    def after_block(self, h: Float[Array, "B T D"], ctx: "Context") -> Float[Array, "B T D"]:
        """Replaces the layer's output."""
        return h

    def observe(
        self,
        x: Float[Array, "B T D"],
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        lse: Float[Array, "B H T"],
        ctx: "Context",
    ) -> dict[str, Array]:
        """What there is to see of this edit in this layer (gates, weights, shares of the attention), under
        `capture=True` only; `x` is the layer's input, `lse` the log-normaliser of its attention."""
        return {}

    def needs_layer(self) -> bool:
        """Whether the edit acts at the MLP or the end of the layer, which a site of attention alone does not have:
        where it has a hook of theirs."""
        hooks = ("after_mlp", "after_mlp_dropout", "after_block")
        return any(getattr(type(self), hook) is not getattr(LayerEdit, hook) for hook in hooks)

    def canonical(self, dims: Dims) -> "tuple[LayerEdit, ...] | None":
        """The same edit in evaluation, in a form in which many adapters share one program; None where it has none.

        In that form all-zero leaves are a no-op: its leaves may be padded with zeros along every axis but the first,
        and with all leaves zero it leaves the backbone as it is. Hyperparameters that a leaf can hold are folded into
        it and those of training are reset, so that as many adapters as possible have one structure. It is several
        edits where parts can stand alone. A subclass inherits no form: what it adds would be lost.
        """
        return None
