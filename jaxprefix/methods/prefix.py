"""What prefix methods share: the edit that hands each layer its virtual tokens, and the parameters behind it."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxprefix.edits import Dims, Edits, leaf
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method
from jaxprefix.methods.prefix_edits import DropoutUnit, Prefix
from jaxprefix.old_names import answer_old_names
from jaxprefix.values import Count, Natural, Rate


@answer_old_names
@dataclasses.dataclass(frozen=True)
class PrefixMethod(Method):
    """Options of every prefix method.

    Attributes:
      length: P, virtual tokens per layer.
      lengths: the number of virtual tokens of each layer, one entry per layer, 0 for none; None gives `length` to
        every layer of `layers`. A missing token is one of mass 0, so P is then the largest of them, unless
        `position_offset` says otherwise.
      layers: indices of the layers that get a prefix; None for all.
      position_offset: shift the positions of the real tokens by P, as the published codes and Hugging Face PEFT do
        (False: as the `adapters` library does; a number: by that many, as for a prefix whose layers kept fewer tokens
        than it was made with).
      dropout: rate of the dropout on the prefix in training; None takes the backbone's hidden dropout.
      dropout_unit: `element` (as published: each number of each row) or `token` (whole virtual tokens of a row).
      no_op_start: give each virtual token a trained mass that starts at 0, so that training starts from the backbone
        itself, to the bit. A prefix of zeros would not: it takes a share of the attention. Needs
        `position_offset=False`, since shifted positions change the backbone as well.
      subject_to_window: in layers with a sliding window, whether the virtual tokens leave it as the real ones do,
        counted as if all P stood right before the row's first real token, so that padding does not count (Hugging Face
        PEFT has it so for rows without padding on the left); else every query sees them.
    """

    length: Count = 16
    lengths: tuple[Natural, ...] | None = None
    layers: tuple[Natural, ...] | None = None
    position_offset: bool | Natural = True
    dropout: Rate | None = None
    dropout_unit: DropoutUnit = "element"
    no_op_start: bool = False
    subject_to_window: bool = False

    @classmethod
    def of_size(cls, size: int, like: Method | None = None) -> "PrefixMethod":
        """With position offset, dropout, layers and initial scale of `like` where that is a prefix, so that all of a
        comparison start alike; else without a position offset."""
        shared = ("position_offset", "dropout", "dropout_unit", "layers")
        given: dict[str, Any] = {"position_offset": False}
        if isinstance(like, PrefixMethod):
            given = {name: getattr(like, name) for name in shared}
        if "init_std" in (field.name for field in dataclasses.fields(cls)):
            given["init_std"] = getattr(like, "init_std", None)
        return cls(**dict.fromkeys(cls.size_fields, size), **given)

    def layer_lengths(self, dims: Dims) -> tuple[int, ...]:
        """The number of virtual tokens of each of the L layers; refuses what does not fit the backbone."""
        name = type(self).__name__
        if self.no_op_start and self.position_offset:
            raise UserError(
                f"{name}(no_op_start=True) cannot start from the backbone with shifted positions; "
                "set position_offset=False."
            )
        if self.lengths is not None:
            if self.layers is not None:
                raise UserError(
                    f"{name} has both lengths and layers; write 0 into lengths for layers without a prefix."
                )
            if len(self.lengths) != dims.layers or max(self.lengths) == 0:
                raise UserError(
                    f"{name} has lengths = {self.lengths}; give each of the {dims.layers} layers a number of at least "
                    "0, not all of them 0."
                )
            return self.lengths
        layers = range(dims.layers) if self.layers is None else self.layers
        if not layers or len(set(layers)) != len(layers) or not all(0 <= i < dims.layers for i in layers):
            raise UserError(
                f"{name} has layers = {self.layers}; give different indices from 0 to {dims.layers - 1}, at least one."
            )
        return tuple(self.length if index in layers else 0 for index in range(dims.layers))

    def make_edits(
        self, keys: Float[Array, "N K E"], values: Float[Array, "N K E"], mass: Float[Array, "N"] | None, dims: Dims
    ) -> Edits:
        """Edits from the N virtual tokens of all layers, layer by layer: spread to `[L, P, ...]` with mass 0 where a
        layer has fewer than P."""
        return Edits((Prefix(**self.prefix_fields(keys, values, mass, dims)),), position_offset=self.offset(dims))

    def prefix_fields(
        self, keys: Float[Array, "N K E"], values: Float[Array, "N K E"], mass: Float[Array, "N"] | None, dims: Dims
    ) -> dict[str, Any]:
        """The fields of the layer edit `Prefix`."""
        lengths = self.layer_lengths(dims)
        if min(lengths) < max(lengths):
            mass = jnp.ones(sum(lengths), jnp.float32) if mass is None else mass
        rate = dims.hidden_dropout if self.dropout is None else self.dropout
        return {
            "keys": spread(keys, lengths),
            "values": spread(values, lengths),
            "mass": None if mass is None else spread(mass, lengths),
            "rate": rate,
            "unit": self.dropout_unit,
            "subject_to_window": self.subject_to_window,
        }

    def offset(self, dims: Dims) -> int:
        """How far the positions of the real tokens are shifted."""
        return max(self.layer_lengths(dims)) if self.position_offset is True else int(self.position_offset)


def spread(rows: Float[Array, "N *R"], lengths: tuple[int, ...]) -> Float[Array, "L P *R"]:
    """Rows that are counted over the layers, `lengths` of them to each, as a stack with zeros where a layer has fewer
    than P."""
    length = max(lengths)
    if min(lengths) == length:
        return rows.reshape(len(lengths), length, *rows.shape[1:])
    return jnp.zeros((len(lengths), length, *rows.shape[1:]), rows.dtype).at[slots(lengths)].set(rows)


def slots(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Layer and place of each of the N virtual tokens."""
    layer = np.repeat(np.arange(len(lengths)), lengths)
    return layer, np.concatenate([np.arange(n) for n in lengths])


def trained_mass(module: nn.Module, count: int) -> Float[Array, "N"]:
    """Masses that start at 0. Adam may carry the leaf below 0, where no mass is; the mass is then 0 and the gradient
    stays that of the mass, so that the leaf can come back."""
    mass = leaf(module, "mass", nn.initializers.zeros, (count,), decay=False)
    return mass + jax.lax.stop_gradient(jnp.maximum(mass, 0) - mass)


class DirectPrefix(nn.Module):
    """The keys and values themselves: `keys` and `values` `[N, K, E]`, N(0, std), N counted over layers."""

    method: PrefixMethod
    dims: Dims
    std: float

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method, dims = self.method, self.dims
        count = sum(method.layer_lengths(dims))
        shape = (count, dims.kv_heads, dims.head_width)
        start = nn.initializers.normal(self.std)
        keys, values = (leaf(self, name, start, shape, tp=1) for name in ("keys", "values"))
        mass = trained_mass(self, count) if method.no_op_start else None
        return method.make_edits(keys, values, mass, dims)


class ReparameterisedPrefix(nn.Module):
    """Keys and values as `W2 tanh(W1 e + b1) + b2` of an embedding `e` `[P, D]` (Li & Liang 2021, section 4.3).

    Parameters `embedding` `[P, D]`, `up` (D to `mlp_width`), `down` (`mlp_width` to `2 L K E`, a layer's keys before
    its values, as the published codes lay them out). With per-layer lengths the MLP still makes P tokens for each
    layer that has any.

    Attributes:
      torch_init: torch's defaults, as the published prefix-tuning code leaves them: embedding N(0, 1), kernels and
        biases U(-1/sqrt(I), 1/sqrt(I)) for I inputs; else what transformers gives P-Tuning v2: N(0, initializer_range)
        and biases 0.
    """

    method: PrefixMethod
    dims: Dims
    mlp_width: int
    torch_init: bool

    @nn.compact
    def __call__(self) -> Edits:
        """Makes the leaves, and the edits from them."""
        method, dims = self.method, self.dims
        lengths = np.array(method.layer_lengths(dims))
        kept, length = np.flatnonzero(lengths), int(lengths.max())
        features = 2 * len(kept) * dims.kv_heads * dims.head_width
        embedding = nn.initializers.normal(1.0 if self.torch_init else dims.initializer_range)
        h = leaf(self, "embedding", embedding, (length, dims.width))
        h = self._linear("down", features, jnp.tanh(self._linear("up", self.mlp_width, h)))
        made = h.reshape(length, len(kept), 2, dims.kv_heads, dims.head_width).transpose(2, 1, 0, 3, 4)
        layer, token = slots(tuple(int(n) for n in lengths[kept]))
        mass = trained_mass(self, len(layer)) if method.no_op_start else None
        return method.make_edits(made[0, layer, token], made[1, layer, token], mass, dims)

    def _linear(self, name: str, features: int, x: Array) -> Array:
        if self.torch_init:
            bound = x.shape[-1] ** -0.5

            def init(key: Array, shape: tuple[int, ...], dtype: type = jnp.float32) -> Array:
                return jax.random.uniform(key, shape, dtype, -bound, bound)

            bias_init = init
        else:
            init, bias_init = nn.initializers.normal(self.dims.initializer_range), nn.initializers.zeros
        kernel = leaf(self, f"{name}_kernel", init, (x.shape[-1], features), matrix=(0, 1))
        return x @ kernel + leaf(self, f"{name}_bias", bias_init, (features,), decay=False)
