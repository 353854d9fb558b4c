"""Putting a method's virtual tokens at their start, once its leaves are drawn."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from jaxprefix.checkpoints.adapter import read_adapter
from jaxprefix.edits import Edits
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Combined, Method, make_edits, parts_of
from jaxprefix.methods.prefix import PrefixMethod
from jaxprefix.methods.prefix_edits import Prefix
from jaxprefix.methods.prompt_tuning import PromptTuning
from jaxprefix.models.positions import has_rotation, move_keys
from jaxprefix.models.tuned import TunedModel
from jaxprefix.starts.placing import gate_at_zero, place
from jaxprefix.starts.reading import KeysValues, keys_and_values, word_rows
from jaxprefix.starts.values import AdapterStart, SinkStart, Start, TokenStart, cycled
from jaxprefix.trees import Tree, merge
from jaxprefix.typed_json import from_json


def start(
    model: TunedModel, trainable: Tree, frozen: Tree, tokenizer: Any, how: Start, labels: Sequence[str] = ()
) -> Tree:
    """The trainable tree with the method's virtual tokens at a start; every other leaf stays as it was drawn.

    For prefixes (P-Tuning v2, prefix-tuning, Adaptive Prefix Tuning) and for prompt tuning, alone or as the one such
    part of a sum. Keys stand at the positions before the real tokens, whatever the method's `position_offset`, where
    positions are rotations; from a table of positions they are read from 0 on. `place` says what becomes of keys and
    values under gates and through an MLP.

    Args:
      model: backbone, method and head.
      trainable: from `model.init`; the tree stays as it is.
      frozen: from `model.init`; the tree stays as it is.
      tokenizer: of the backbone.
      how: `TextStart`, `VocabularyStart`, `LabelStart`, `SinkStart`, `AdapterStart`.
      labels: their names, for `LabelStart`.

    Returns:
      The trainable tree.

    Raises:
      UserError: the method has no virtual tokens or several sets of them, or the start does not fit it.
    """
    name, method = startable(model.method)
    leaves = trainable["method"][name] if name else trainable["method"]
    tree = merge(frozen["backbone"], frozen["initialized"], trainable.get("backbone", {}))
    if isinstance(method, PromptTuning):
        made = {**leaves, "prompt": _prompt(model, tree, tokenizer, how, labels, method.length)}
    else:
        dims, offset = model.backbone.dims, model.edits(trainable).position_offset
        length = max(method.layer_lengths(dims))
        (keys, values), begins = _prefix(model, tree, tokenizer, how, labels, length)
        if has_rotation(model.backbone.config) and begins != offset:
            keys = move_keys(model.backbone.config, keys, offset - begins)
        made = place(method, leaves, dims, keys, values)
    # through the host, so that the leaves are placed as others that were drawn, and not as the backbone
    made = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), made)
    return {**trainable, "method": {**trainable["method"], name: made} if name else made}


def startable(method: Method) -> tuple[str, PrefixMethod | PromptTuning]:
    """The part of a method that has virtual tokens, and its name in the trainable tree ("" where it is no part).

    Raises:
      UserError: there is none, or more than one.
    """
    names = method.names if isinstance(method, Combined) else ("",)
    known = zip(names, parts_of(method), strict=True)
    found = [(name, part) for name, part in known if isinstance(part, PrefixMethod | PromptTuning)]
    if len(found) != 1:
        has = f"{len(found)} sets of virtual tokens" if found else "no virtual tokens"
        raise UserError(
            f"{type(method).__name__} has {has}, and a start is for one prefix or prompt; remove start, or tune "
            "with one."
        )
    return found[0]


def _prompt(
    model: TunedModel, tree: Tree, tokenizer: Any, how: Start, labels: Sequence[str], length: int
) -> Float[Array, "P D"]:
    if isinstance(how, AdapterStart):
        prompt = _stored(how, model).prompt
        if prompt is None:
            raise UserError(f"the adapter in {how.folder} has no prompt before the words; start from one that has.")
        return prompt[jnp.asarray(cycled(range(prompt.shape[0]), length))]
    if isinstance(how, SinkStart):
        row = word_rows(model.backbone, tree, jnp.full(length, how.token_id(tokenizer)))
        return _noisy(row[None], how)[0]
    return word_rows(model.backbone, tree, _ids(how, tokenizer, length, labels))


def _prefix(
    model: TunedModel, tree: Tree, tokenizer: Any, how: Start, labels: Sequence[str], length: int
) -> tuple[KeysValues, int]:
    """Keys and values, and the position that real tokens begin at behind them."""
    if isinstance(how, AdapterStart):
        edits = _stored(how, model)
        prefix = edits.layers[0] if len(edits.layers) == 1 else None
        if not isinstance(prefix, Prefix) or prefix.mass is not None:
            raise UserError(
                f"the adapter in {how.folder} is no prefix of one length and without masses; start from one that is."
            )
        at, gate = jnp.asarray(cycled(range(prefix.keys.shape[1]), length)), gate_at_zero(prefix)[..., None, None]
        return ((prefix.keys * gate)[:, at], (prefix.values * gate)[:, at]), edits.position_offset
    if isinstance(how, SinkStart):
        read = keys_and_values(model.backbone, tree, jnp.array([how.token_id(tokenizer)]))
        keys, values = (jnp.repeat(leaf, length, axis=1) for leaf in read)
        return (_noisy(keys, how, 0), _noisy(values, how, 1)), length
    return keys_and_values(model.backbone, tree, _ids(how, tokenizer, length, labels)), length


def _ids(how: Start, tokenizer: Any, length: int, labels: Sequence[str]) -> Array:
    if not isinstance(how, TokenStart):
        raise UserError(f"{type(how).__name__} is no start; give jp.TextStart(...), say, or a TokenStart of your own.")
    return jnp.asarray(how.tokens(tokenizer, length, labels), jnp.int32)


def _noisy(leaf: Float[Array, "L *R"], how: SinkStart, stream: int = 0) -> Float[Array, "L *R"]:
    read = np.asarray(leaf)
    size = np.sqrt((read**2).mean(axis=tuple(range(1, read.ndim)), keepdims=True))
    noise = np.random.default_rng([how.seed, stream]).standard_normal(read.shape)
    return jnp.asarray(read + how.noise * size * noise, jnp.float32)


def _stored(how: AdapterStart, model: TunedModel) -> Edits:
    """The edits of the adapter in a folder, which must be of a backbone of the same sizes."""
    files = read_adapter(how.folder)
    method, leaves = from_json(files.config_json).method, files.trainable.get("method", {})
    name, part = startable(method)
    leaves = jax.tree.map(jnp.asarray, leaves[name] if name else leaves)
    wanted = jax.eval_shape(part.build(model.backbone.dims).init, jax.random.key(0))["params"]
    if jax.tree.map(np.shape, leaves) != jax.tree.map(np.shape, wanted):
        raise UserError(
            f"the adapter in {how.folder} is for a backbone of other sizes; start from one of a backbone like this."
        )
    return make_edits(part, leaves, model.backbone.dims)
