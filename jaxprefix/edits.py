"""The contract between tuning methods and backbones: what an edit of a frozen layer is, and how edits compose.

A method builds *edits* from its parameters once per call, outside the scan over layers. A `LayerEdit` is a pytree
whose every leaf is stacked `[L, ...]`; the layer stack slices it, so inside a layer its hooks see their own layer's
leaves. A backbone calls the hooks at fixed places and knows no method by name; a method writes hooks and knows no
backbone by name.

To write one, subclass `LayerEdit` as a registered frozen dataclass (`@edit`), annotate leaves as arrays and mark
hyperparameters with `static()`; override the hooks that the method needs. No checks in `__post_init__`: unflattening
runs it on tracers.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jaxprefix.attention import VirtualTokens
from jaxprefix.errors import UserError

T = TypeVar("T")


def static(**kwargs: Any) -> Any:
    """A dataclass field of an edit that is a hashable hyperparameter, not a leaf."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, static))
def edit(cls: type[T]) -> type[T]:
    """Class decorator: a frozen dataclass that is a pytree, fields marked `static()` being metadata.

    Its fields are free of run-time type checks, since tree maps also fill them with shapes, axis numbers and whole
    stacks; its methods are not.
    """
    hooks = vars(LayerEdit) if issubclass(cls, LayerEdit) else ()
    hidden = [name for name in vars(cls).get("__annotations__", ()) if name in hooks]
    if hidden:
        raise TypeError(f"the field {hidden[0]} of {cls.__name__} would hide the hook of that name; rename the field.")
    cls = jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))
    cls.__no_type_check__ = True  # of the class alone: typing.no_type_check would silence the hooks as well
    return cls


@dataclasses.dataclass(frozen=True)
class Dims:
    """The sizes and constants of a backbone that a method or a head may ask for (see the legend in `jaxprefix`)."""

    layers: int  # L
    heads: int  # H
    kv_heads: int  # K
    width: int  # D
    head_width: int  # E
    mlp_width: int
    vocab: int  # V
    positions: int  # the number of real and virtual positions that the position table can serve
    norm_eps: float = 1e-12  # of the layer norms, the masked-LM head's included
    head_activation: str = "gelu"  # of the masked-LM head's transform
    initializer_range: float = 0.02  # standard deviation of the backbone's own initialisation
    hidden_dropout: Any = 0.0  # the rate that methods and heads take when theirs is `None`
    attention_dropout: float = 0.0  # that of the attention weights, and of the inducers' weights
    causal: bool = False  # whether a query sees only the tokens before it
    gated_mlp: bool = False  # whether the MLP has a third map, `gate`, whose activation multiplies `up`
    logit_softcap: float | None = None  # what bounds the logits of the vocabulary

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every linear map of a layer, by the names that `project` gets."""
        heads, kv_heads = self.heads * self.head_width, self.kv_heads * self.head_width
        return {
            "q": (self.width, heads),
            "k": (self.width, kv_heads),
            "v": (self.width, kv_heads),
            "o": (heads, self.width),
            **({"gate": (self.width, self.mlp_width)} if self.gated_mlp else {}),
            "up": (self.width, self.mlp_width),
            "down": (self.mlp_width, self.width),
        }


class Rates(NamedTuple):
    """Dropout rates of one call as arrays, in place of the numbers that backbone and method were built with, so that
    one program serves them all; None leaves a number as it is."""

    hidden: Any = None
    attention: Any = None
    method: Any = None


BUILT_RATES = Rates()
"""Every rate as it was built."""


class LayerEdit:
    """Hooks of one edit in one layer; every default leaves the backbone as it is.

    Results are cast to the dtype of the tensor they replace by the caller. `z` is the input of a sublayer, `f` its
    output. Leaves are `[L, ...]` outside the stack, `[...]` inside the hooks.
    """

    def virtual_tokens(self, x: Float[Array, "B T D"], ctx: "Context") -> VirtualTokens | None:
        """Virtual tokens of this layer's self-attention, from the layer's input `x`."""
        return None

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

    def canonical(self, dims: Dims) -> "tuple[LayerEdit, ...] | None":
        """The same edit in evaluation, in a form in which many adapters share one program; None where it has none.

        In that form zeros are nothing: its leaves may be padded with zeros along every axis but the first, and with
        all leaves zero it leaves the backbone as it is. Hyperparameters that a leaf can hold are folded into it and
        those of training are reset, so that as many adapters as possible have one structure. It is several edits where
        parts can stand alone. A subclass inherits no form: what it adds would be lost.
        """
        return None


@edit
class Context:
    """What a hook may know beside its own leaves and the tensors at hand.

    Attributes:
      mask: tokens to be seen, True where there is one; the rows of an embedding-level prompt are among them.
      positions: position ids, with the offset that prefixes add.
      key: this edit's own key in this layer, or None when nothing is random.
      rates: dropout rates that replace the built ones.
      training: whether dropout applies.
      prompt: rows of an embedding-level prompt, which stand right before the first token of the text.
      documents: where several examples share a row, the number of the example that each query and each key belongs to,
        0 for padding; None for one example per row.
      column: the column among the keys of the first query, where that is not S - T (cached decoding).
      leading: the layer's input at each row's first real token, where that is not among the queries (cached decoding).
      window: how many columns back a query of this layer sees, its own among them; None for all.
      softcap: what bounds this layer's scores; None for nothing.
    """

    mask: Bool[Array, "B S"]
    positions: Int[Array, "B T"]
    key: Any = None
    rates: Rates = BUILT_RATES
    training: bool = static(default=False)
    prompt: int = static(default=0)
    documents: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None
    column: Int[Array, ""] | None = None
    leading: Float[Array, "B D"] | None = None
    window: int | None = static(default=None)
    softcap: float | None = static(default=None)

    @property
    def first(self) -> Int[Array, "B"]:
        """The column of each row's first real token, behind an embedding-level prompt and padding on the left."""
        return jnp.argmax(self.text, axis=1)

    def first_hidden(self, x: Float[Array, "B T D"]) -> Float[Array, "B D"] | Float[Array, "B T D"]:
        """The layer's input `x` at the first real token of each row; where several examples share a row, at that of
        each query's own example."""
        if self.leading is not None:
            return self.leading
        if self.documents is None:
            return jnp.take_along_axis(x, self.first[:, None, None], axis=1)[:, 0]
        return jnp.take_along_axis(x, document_starts(self.documents[0])[:, :, None], axis=1)

    def numbers(self, queries: int) -> Int[Array, "B T"]:
        """The number of each of the T queries among the real tokens of its row or example, from 1."""
        if self.documents is not None:
            return jnp.arange(1, queries + 1) - document_starts(self.documents[0])
        counts = jnp.cumsum(self.mask, axis=1)
        if self.column is None:
            return counts[:, -queries:]
        return jax.lax.dynamic_slice_in_dim(counts, self.column, queries, axis=1)

    @property
    def text(self) -> Bool[Array, "B S"]:
        """True for the real tokens of the text, without an embedding-level prompt."""
        return self.mask & (jnp.cumsum(self.mask, axis=1) > self.prompt) if self.prompt else self.mask

    def method_rate(self, rate: Any) -> Any:
        """A method's dropout rate in this call: 0 in evaluation."""
        if not self.training:
            return 0
        return rate if self.rates.method is None else self.rates.method

    def attention_rate(self, rate: Any) -> Any:
        """The rate of attention weights in this call: 0 in evaluation."""
        if not self.training:
            return 0
        return rate if self.rates.attention is None else self.rates.attention


def document_starts(documents: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """The column in which the example of each token starts."""
    before = jnp.pad(documents, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    return jax.lax.cummax(jnp.where(documents != before, jnp.arange(documents.shape[1]), 0), axis=1)


@edit
class Edits:
    """All that a model's methods do to one backbone in one call.

    Attributes:
      layers: layer edits in the order of composition; each hook is applied in this order, each seeing the result of
        the one before.
      prompt: `[P, D]` embedding-level virtual tokens, put before the words' embeddings and taken off after the stack;
        prompts of composed edits stand side by side.
      position_offset: added to the positions of prompt and real tokens; offsets of composed edits add.
      row_offsets: added to the positions of each row beside that, where rows have different edits. Their values are
        not known while a program is traced, so the caller checks them against the position table.
      words: `[N, D]` new rows of the vocabulary, ids V to V + N - 1, of the lookup and of a tied head.
    """

    layers: tuple[LayerEdit, ...] = ()
    prompt: Float[Array, "P D"] | None = None
    position_offset: int = static(default=0)
    row_offsets: Int[Array, "B"] | None = None
    words: Float[Array, "N D"] | None = None

    def __add__(self, other: "Edits") -> "Edits":
        prompts = [edits.prompt for edits in (self, other) if edits.prompt is not None]
        prompt = jnp.concatenate(prompts) if prompts else None
        rows = [edits.row_offsets for edits in (self, other) if edits.row_offsets is not None]
        offset = self.position_offset + other.position_offset
        words = [edits.words for edits in (self, other) if edits.words is not None]
        return Edits(
            self.layers + other.layers,
            prompt,
            offset,
            sum(rows[1:], rows[0]) if rows else None,
            jnp.concatenate(words) if words else None,
        )

    @property
    def positions(self) -> int:
        """Positions that the edits take from the position table."""
        return self.position_offset + (0 if self.prompt is None else self.prompt.shape[0])


NO_EDITS = Edits()


def check_stacked(edits: Edits, dims: Dims) -> None:
    """Refuses edits that the stack cannot slice: classes without `@edit`, and leaves that are not stacked over layers
    (a `[P, D]` leaf would be sliced silently when P equals L)."""
    if edits.prompt is not None and edits.prompt.shape[-1:] != (dims.width,):
        raise UserError(
            f"the prompt of the edits has shape {jnp.shape(edits.prompt)}, but its rows must be as wide as the "
            f"backbone; make it [P, {dims.width}]."
        )
    for layer_edit in edits.layers:
        name = type(layer_edit).__name__
        if jax.tree_util.all_leaves([layer_edit]):
            raise UserError(f"the edit {name} is no pytree; put `@jp.edit` above its class, above a subclass as well.")
        for path, leaf in jax.tree_util.tree_leaves_with_path(layer_edit):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != dims.layers:
                raise UserError(
                    f"the leaf {jax.tree_util.keystr(path)} of the edit {name} has shape {jnp.shape(leaf)}, but its "
                    f"first axis must be the {dims.layers} layers of the backbone; "
                    "stack it with one entry per layer."
                )


class Method:
    """A tuning method: a frozen dataclass of hyperparameters that builds edits and knows no backbone.

    Attributes:
      moves: of a method that trains leaves of the backbone and nothing else, what they are; a backbone that has none
        of them is refused.
    """

    moves: ClassVar[str | None] = None

    def build(self, dims: Dims) -> nn.Module:
        """The Linen module whose `apply({"params": params})` returns `Edits`; refuses what cannot be, as UserError."""
        raise NotImplementedError

    def trains(self, path: str) -> bool:
        """Whether the backbone's leaf at `path` (`layers/q/bias`) moves from `frozen` to `trainable`."""
        return False

    def conflict(self, other: "Method") -> str | None:
        """Why this method cannot stand beside `other` in a sum, or None."""
        return None

    def __add__(self, other: "Method") -> "Method":
        """Both methods at once; see `jaxprefix.methods.combined.Combined`."""
        from jaxprefix.methods.combined import combine  # the sum is a method like others, and knows this class

        return combine(self, other)
