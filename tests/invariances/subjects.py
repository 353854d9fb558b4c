"""A tuned model with every leaf drawn, and the batches that it is asked in."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprefix as jp
from tests import decoders, tiny

LENGTH, TOKENS = 6, 9  # of the row that is followed, and of a batch; windows have 4 columns
SIZES = {"layers": 2, "positions": 128, "hidden_dropout": 0.3, "attention_dropout": 0.2}
DECODERS = {"gemma3": ("gemma3_text", {"pattern": ("sliding", "full")}), "gpt2": ("gpt2", {}), "llama": ("llama", {})}
DECODERS["mistral"] = ("mistral", {})
POOLINGS = {"bert": "pooler", "roberta": "mean"}


def module_of(name: str, **changes: Any) -> Any:
    """The backbone: two layers of 16 channels."""
    if name in POOLINGS:
        return jp.Encoder(tiny.config(name, **SIZES, **changes))
    kind, own = DECODERS[name]
    return jp.Decoder(decoders.config(kind, **SIZES, **own, **changes))


@functools.cache
def backbone_tree(name: str, **changes: Any) -> Any:
    """Its leaves, all of them drawn."""
    module = module_of(name, **changes)
    if name in DECODERS:
        kind, own = DECODERS[name]
        return decoders.frozen_tree(kind, **SIZES, **own, **changes)
    shapes = jax.eval_shape(module.init, jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})["params"]
    return tiny.random_tree(shapes, np.random.default_rng(1), 0.3)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model and its trees.

    Attributes:
      name: of the backbone.
      model, trainable, frozen: away from every start, so that what a method does shows.
      new: how many words the method adds to the vocabulary.
    """

    name: str
    model: jp.TunedModel
    trainable: Any
    frozen: Any
    new: int = 0

    @property
    def causal(self) -> bool:
        """Whether it is a decoder."""
        return self.name in DECODERS

    def wide(self) -> "Subject":
        """The same in float64."""
        model = dataclasses.replace(self.model, backbone=self.model.backbone.clone(dtype=jnp.float64))
        trainable, frozen = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (self.trainable, self.frozen))
        return Subject(self.name, model, trainable, frozen, self.new)

    def row(self, length: int, seed: int) -> np.ndarray:
        """A text; its third token is a new word where there are any."""
        ids = np.random.default_rng(seed).integers(2, self.model.backbone.dims.vocab, length)
        if self.new:
            ids[2] = self.model.backbone.dims.vocab + self.new - 1
        return ids

    def batch(self, rows: Any, tokens: int = TOKENS) -> dict[str, Any]:
        """A batch of rows that are lists of `(column, text)`; several of a row share it (`segment_ids`)."""
        shape, shared = (len(rows), tokens), any(len(row) > 1 for row in rows)
        pad = 0 if self.causal else self.model.backbone.config.padding_id
        ids, segments, types = np.full(shape, pad, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        for index, row in enumerate(rows):
            for number, (column, text) in enumerate(row, 1):
                place = slice(column, column + len(text))
                ids[index, place], segments[index, place] = text, number
                types[index, place] = 0 if self.causal else np.asarray(text) % self.model.backbone.config.type_count
        made = {"input_ids": ids, "attention_mask": segments > 0}
        made |= {} if self.causal else {"token_type_ids": types}
        return {**made, "segment_ids": segments} if shared else made


def subject(name: str, method: jp.Method, **changes: Any) -> Subject:
    """The method on a backbone, a language model or a classifier that pools; `changes` are fields of the backbone's
    config.

    Raises:
      UserError: the method cannot be on it.
    """
    head = jp.CausalLM() if name in DECODERS else jp.SequenceClassifier(3, pooling=POOLINGS[name])
    model = jp.TunedModel(module_of(name, **changes).clone(unroll=True), method, head)
    trainable, frozen = tiny.drawn(model, backbone_tree(name, **changes))
    words = jax.eval_shape(model.edits, trainable).words
    return Subject(name, model, trainable, frozen, 0 if words is None else words.shape[0])
