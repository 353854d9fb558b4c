"""How torch libraries lay a prefix and a linear map out, against our leaves.

All of them (Hugging Face PEFT, P-Tuning v2, the `adapters` library) keep the prefix of all layers in one table, a row
per virtual token: layer 0's keys, layer 0's values, layer 1's keys, ..., each head after head. Ours are keys and values
`[N, K, E]`, layer after layer. A torch kernel is `[O, I]`, ours `[I, O]`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxprefix.errors import UserError, listed

Tensors = Mapping[str, np.ndarray]
Linear = dict[str, np.ndarray]


def to_table(
    keys: Float[np.ndarray, "L P K E"], values: Float[np.ndarray, "L P K E"]
) -> Float[np.ndarray, "P columns"]:
    """The table `[P, 2 L K E]`: slice `2l` holds layer `l`'s keys, slice `2l + 1` its values, head-major."""
    both = np.stack([keys, values], axis=1)  # [L, 2, P, K, E]
    return np.ascontiguousarray(both.transpose(2, 0, 1, 3, 4)).reshape(both.shape[2], -1)


def from_table(
    table: Float[np.ndarray, "P columns"], layers: int, kv_heads: int, head_width: int
) -> dict[str, Float[np.ndarray, "N K E"]]:
    """Our leaves `keys` and `values` `[N, K, E]`, N = layers * P, of a table whose width was checked."""
    both = table.reshape(len(table), layers, 2, kv_heads, head_width).transpose(2, 1, 0, 3, 4)
    keys, values = np.ascontiguousarray(both).reshape(2, -1, kv_heads, head_width)
    return {"keys": keys, "values": values}


def reparameterised(
    embedding: np.ndarray, up: Mapping[str, np.ndarray], down: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """The leaves of `ReparameterisedPrefix` from an embedding `[P, D]` and the two linear maps of its MLP."""
    maps = {f"{name}_{leaf}": value for name, linear in (("up", up), ("down", down)) for leaf, value in linear.items()}
    return {"embedding": embedding, **maps}


def to_linear(leaf: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """Our `kernel` `[I, O]` and `bias` `[O]` as the torch tensors `name.weight` `[O, I]` and `name.bias`, float32."""
    weight = np.asarray(leaf["kernel"], np.float32).T
    return {f"{name}.weight": np.ascontiguousarray(weight), f"{name}.bias": np.asarray(leaf["bias"], np.float32)}


def from_linear(tensors: Tensors, name: str, inputs: int, outputs: int | None = None) -> Linear:
    """The torch tensors `name.weight` and `name.bias` as our `kernel` `[I, O]` and `bias` `[O]`, float32.

    Args:
      tensors: tensors by name.
      name: of the linear map.
      inputs: I.
      outputs: O; None takes what is there.

    Raises:
      UserError: one of the two is not there, or has another shape.
    """
    weight = take(tensors, f"{name}.weight", (outputs, inputs))
    return {"kernel": np.ascontiguousarray(weight.T), "bias": take(tensors, f"{name}.bias", (weight.shape[0],))}


def take(tensors: Tensors, name: str, shape: tuple[int | None, ...]) -> np.ndarray:
    """A tensor as float32, checked against a shape in which None stands for any size.

    Raises:
      UserError: it is not there, has another shape, or no numbers.
    """
    if name not in tensors:
        raise UserError(
            f"the tensor {name} is missing (there are {listed(sorted(tensors))}); save the whole adapter, its head "
            "included."
        )
    found = np.asarray(tensors[name])
    if len(found.shape) != len(shape) or any(want not in (None, got) for got, want in zip(found.shape, shape)):  # noqa: B905
        wanted = "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"
        raise UserError(
            f"the tensor {name} has shape {list(found.shape)}, but this backbone calls for {wanted}; "
            "name the backbone that it was trained on."
        )
    return np.ascontiguousarray(found, np.float32)


def refuse_unknown(tensors: Tensors, known: set[str], library: str, what: str = "a prefix") -> None:
    """Refuses tensors that no conversion reads: what is left out would silently be another function.

    Raises:
      UserError: there are some.
    """
    if unknown := sorted(set(tensors) - known):
        raise UserError(
            f"the tensors {listed(sorted(unknown))} have no place in {what} with its head, as {library} writes them; "
            "import an adapter of that form alone (no gates, no other modules)."
        )
