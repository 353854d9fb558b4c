"""A backbone, a method and a head as one model over two trees: `trainable` and `frozen`."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprefix.edits import BUILT_RATES, Edits, Rates
from jaxprefix.errors import UserError, listed
from jaxprefix.methods.base import Method, make_edits, parts_of
from jaxprefix.models.backbone_config import Module
from jaxprefix.models.batch_keys import (
    check_batch,
    check_values,
    fold_choices,
    read_attention_mask,
    refuse_packed,
)
from jaxprefix.models.cache import Cache
from jaxprefix.models.heads import Head
from jaxprefix.models.quantizing import refuse_quantized
from jaxprefix.trees import Tree, flatten, merge, split


class Output(NamedTuple):
    """What a tuned model returns: `logits` (None without a head), the last `hidden` state `[B, T, D]`, and under
    `capture=True` every layer's, `captured` `[L + 1, B, T, D]`, and what each layer edit shows (gates, weights, shares
    of the attention), `observed`, leaves `[L, ...]`. Of a batch `[B, C, T]` both are `[..., B, C, T, D]`, and
    `observed` has `B C` rows."""

    logits: Array | None
    hidden: Array
    captured: Array | None
    observed: tuple[dict[str, Array], ...] | None = None
    cache: Cache | None = None


@dataclasses.dataclass(frozen=True)
class TunedModel:
    """A frozen backbone, what tunes it, and what it is asked for. Hashable: it is a static argument of `jax.jit`.

    Attributes:
      backbone: the encoder or decoder.
      method: what is trained.
      head: what it predicts; None for hidden states alone.
    """

    backbone: Module
    method: Method
    head: Head | None = None

    def __post_init__(self) -> None:
        for part in (self.method, self.head):
            try:
                hash(part)
            except TypeError as error:
                raise UserError(
                    f"{type(part).__name__} cannot be hashed ({error}); put `@dataclasses.dataclass(frozen=True)` "
                    "above its class, and let its fields be numbers, text, tuples and the like."
                ) from error

    def init(self, key: Array, frozen: Tree) -> tuple[Tree, Tree]:
        """The two trees, disjoint from birth.

        Args:
          key: a typed key.
          frozen: the backbone's tree as `load_pretrained` gives it.

        Returns:
          `trainable`: float32 leaves under `method`, `head`, and `backbone` for backbone leaves that the method or the
          head trains. `frozen`: every other leaf under `backbone`, and under `initialized` those that the backbone's
          folder did not have (a pooler drawn at random), which are saved with the adapter.

        Raises:
          UserError: nothing is trained, or `frozen` is not a backbone's tree, has not what a method trains of it, or
            has it as int8.
        """
        if not (isinstance(key, Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            raise UserError(f"init was given {key!r} for a key; give it one, as in jax.random.key(0).")
        if "embeddings" not in frozen:
            raise UserError(
                f"the tree given to init holds {', '.join(frozen) or 'nothing'}, so it is no backbone's (what init "
                "returned, perhaps); give it the tree that load_pretrained returned."
            )
        for part in parts_of(self.method):
            if part.moves is not None and not any(part.trains(path) for path in flatten(frozen)):
                raise UserError(
                    f"{type(part).__name__} trains the {part.moves} of a backbone, and this one has none; "
                    "choose another method."
                )
        method_key, head_key, init_key = jax.random.split(key, 3)
        module = self.method.build(self.backbone.dims)
        trainable: Tree = {"method": module.init(method_key).get("params", {})}
        initialized: Tree = {}
        if self.head is not None:
            trainable["head"] = self.head.init(head_key, self.backbone.dims)
            initialized = self.head.init_missing(init_key, self.backbone.dims, frozen)
        moved, kept = split(frozen, self.trains)
        refuse_quantized(moved, f"{type(self.method).__name__} trains")
        init_moved, initialized = split(initialized, self.trains)
        # a copy: training donates `trainable`, and the caller's tree must outlive that
        trainable["backbone"] = jax.tree.map(lambda w: jnp.array(w, jnp.float32), merge(moved, init_moved))
        trainable = {name: tree for name, tree in trainable.items() if flatten(tree)}
        if not trainable:
            raise UserError(
                f"{type(self.method).__name__} trains no leaf, nor does a head; choose a method or a head that does."
            )
        return trainable, {"backbone": kept, "initialized": initialized}

    def trains(self, path: str) -> bool:
        """Whether the backbone's leaf at `path` moves to `trainable`, for the method or for the head."""
        return self.method.trains(path) or (self.head is not None and self.head.trains(path))

    def edits(self, trainable: Tree) -> Edits:
        """The method's edits, leaves stacked `[L, ...]`."""
        return make_edits(self.method, trainable.get("method", {}), self.backbone.dims)

    def check_inputs(self, trainable: Any, frozen: Any, batch: Any) -> None:
        """Refuses trees and a batch that are not what `apply` takes, before anything is compiled."""
        trees = (
            ("trainable", trainable, ("method", "head", "backbone")),
            ("frozen", frozen, ("backbone", "initialized")),
        )
        for name, tree, known in trees:
            unknown = [key for key in tree if key not in known] if isinstance(tree, Mapping) else [type(tree).__name__]
            if unknown or (name == "frozen" and set(known) - set(tree)):
                raise UserError(
                    f"the {name} tree given is not one ({listed(unknown) if unknown else 'it lacks a part'}); give "
                    "what init returned: model.apply(trainable, frozen, batch)."
                )
        check_batch(batch, None if self.head is None else self.head.targets)
        refuse_packed(batch, self.backbone.dims.causal)
        vocab, types = self.backbone.dims.vocab, self.backbone.config.type_count
        values = [batch[name] for name in ("input_ids", "token_type_ids") if isinstance(batch.get(name), np.ndarray)]
        if any(value.max() >= vocab for value in values):  # new tokens, perhaps
            words = jax.eval_shape(self.edits, trainable).words
            new = 0 if words is None else words.shape[0]
            vocab, types = vocab + new, types + new if self.backbone.config.has_word_types and types else types
        check_values(batch, vocab, types)

    def forward(
        self,
        trainable: Tree,
        frozen: Tree,
        batch: Mapping[str, Any],
        *,
        key: Array | None = None,
        training: bool = False,
        capture: bool = False,
        rates: Rates = BUILT_RATES,
        edits: Edits | None = None,
        cache: Cache | None = None,
        last: bool = False,
        layers: tuple | None = None,
    ) -> Output:
        """`apply` without its own `jax.jit`, to be part of a larger compiled function; `rates` replace built ones,
        `edits` those that the method would make of its leaves; `cache` and `layers` are a decoder's; with `last` there
        are logits of the last column only."""
        check_batch(batch, None if self.head is None else self.head.targets)
        refuse_packed(batch, self.backbone.dims.causal)
        backbone = merge(frozen["backbone"], frozen["initialized"], trainable.get("backbone", {}))
        batch, unfold = fold_choices(batch)
        encoder_key, head_key = (None, None) if key is None else jax.random.split(key)
        params = {name: backbone[name] for name in self.backbone.parts}
        edits = unfold.edits(self.edits(trainable) if edits is None else edits)
        encoded = self.backbone.apply(
            {"params": params},
            batch,
            edits,
            key=encoder_key,
            training=training,
            capture=capture,
            rates=rates,
            **({} if cache is None else {"cache": cache, "layers": layers}),
        )
        if edits.words is not None:
            backbone = {**backbone, "words": edits.words}
        encoded = encoded._replace(
            hidden=unfold(encoded.hidden), captured=None if encoded.captured is None else unfold(encoded.captured, 1)
        )
        if self.head is None:
            return Output(None, *encoded)
        mask = unfold(read_attention_mask(batch))
        head_params, dims = trainable.get("head", {}), self.backbone.dims
        if rates.hidden is not None:
            dims = dataclasses.replace(dims, hidden_dropout=rates.hidden)
        hidden, mask = (encoded.hidden[..., -1:, :], mask[..., -1:]) if last else (encoded.hidden, mask)
        logits = self.head(head_params, backbone, hidden, mask, dims, head_key if training else None)
        return Output(logits, *encoded)

    def apply(
        self,
        trainable: Tree,
        frozen: Tree,
        batch: Mapping[str, Any],
        *,
        key: Array | None = None,
        training: bool = False,
        capture: bool = False,
    ) -> Output:
        """The model as a pure function, compiled once per batch shape: differentiate, vmap, shard as you like.

        Args:
          trainable: from `init`, or trained since.
          frozen: from `init`.
          batch: `input_ids` int `[B, T]`, or `[B, C, T]` where a row asks about C sequences; `attention_mask` bool and
            `token_type_ids` int of the same shape (the last two may be absent).
          key: a typed key for dropout, needed when training.
          training: whether dropout applies.
          capture: whether to return every layer's hidden state and what the edits show.
        """
        self.check_inputs(trainable, frozen, batch)
        return _apply(self, trainable, frozen, dict(batch), key, training, capture)


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _apply(
    model: TunedModel, trainable: Tree, frozen: Tree, batch: Tree, key: Array | None, training: bool, capture: bool
) -> Output:
    return model.forward(trainable, frozen, batch, key=key, training=training, capture=capture)
