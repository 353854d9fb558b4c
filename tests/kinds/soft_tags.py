"""Two distributions for every token, several texts in a sequence of a decoder: targets `[T, K]`, packed."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxprefix as jp

KINDS = 3


def split(logits):
    """Logits of both distributions, `[B, T, 2, K]`."""
    return logits.reshape(*logits.shape[:-1], 2, KINDS)


def entropies(logits: Float[Array, "B T C"], batch):
    """The cross entropies of both distributions together, and where there is a target, `[B, T]`."""
    targets = jnp.stack([batch["first"], batch["second"]], axis=-2)  # [B, T, 2, K]
    loss = -(targets * jax.nn.log_softmax(split(logits))).sum((-2, -1))
    return loss, targets.sum((-2, -1)) > 0


@jp.register_head
@dataclasses.dataclass(frozen=True)
class SoftTagger(jp.LinearHead):
    """Two softmaxes for every token."""

    task: ClassVar[str] = "soft tags"
    unit: ClassVar[str] = "token"

    def loss(self, logits: Float[Array, "B T C"], batch, smoothing: float = 0.0):
        """The mean over tokens that have targets."""
        loss, there = entropies(logits, batch)
        weight = batch["weight"][:, None] * there
        return (loss * weight).sum(), weight.sum()

    def outputs(self, logits: Float[Array, "B T C"], batch):
        """Probabilities `[B, T, 2, K]` and losses `[B, T]`."""
        found = {"probabilities": jax.nn.softmax(split(logits))}
        return {**found, "losses": entropies(logits, batch)[0]} if "first" in batch else found

    def canonical(self, trainable, initialized):
        """None: padded logits could not be split in two."""


@jp.register_task
@dataclasses.dataclass(frozen=True)
class SoftTags(jp.Task):
    """Rows `{"words": [...], "first": [[p, ...], ...], "second": ...}` with a distribution for each word."""

    source: jp.Files
    max_length: int = 24
    packed: bool = True
    metric: str = "loss"

    question: ClassVar[str] = "soft tags"
    stack: ClassVar[str | None] = "decoder"

    @property
    def columns(self):
        return ("words",)

    def encode(self, tokenizer, rows, facts):
        tokenizing = jp.Tokenizing(tokenizer, self.max_length, True, words=True)
        for index, row in enumerate(rows):
            (found,) = tokenizing([rows.value(row, index, "words")], [rows.locate(index)])
            targets = {}
            for name in ("first", "second") if facts is not None else ():
                given = np.array(rows.value(row, index, name), np.float32)
                words = np.array([-1 if word is None else word for word in found.word_ids])
                targets[name] = np.where((words >= 0)[:, None], given[words], 0).astype(np.float32)
            yield tokenizing.encoded([found], targets)

    def targets(self, count):
        return {name: jp.TargetSpec("token", np.float32, (KINDS,), 0.0) for name in ("first", "second")}

    def count(self, facts):
        return 2 * KINDS

    @classmethod
    def default_head(cls):
        return SoftTagger()

    @property
    def metrics(self):
        def loss(evaluated):
            there = evaluated.targets["first"].sum(-1) > 0
            return float(np.mean(evaluated.outputs["losses"][there], dtype=np.float64))

        return {"loss": jp.Metric(loss, higher_is_better=False)}

    def answers(self, evaluated, inputs, scores):
        found = evaluated.outputs["probabilities"]
        return [{"first": found[place, :, 0].argmax(-1).tolist()} for place in range(len(inputs))]


def rows(count, seed):
    """Both distributions of a word depend on the word alone."""
    random, known = np.random.default_rng(seed), ["the", "book", "tea", "songs"]
    table = np.random.default_rng(0).dirichlet(np.ones(KINDS), (len(known), 2))
    found = []
    for _ in range(count):
        words = random.integers(len(known), size=random.integers(2, 8))
        named = {name: table[words, place].tolist() for place, name in enumerate(("first", "second"))}
        found.append({"words": [known[word] for word in words], **named})
    return found
