"""A question with any number of choices, of which one is right: `[B, C, T]`, ragged C."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

import jaxprefix as jp
from jaxprefix.models.heads import cross_entropy, pool
from jaxprefix.models.heads.base import label_outputs


@jp.register_head
@dataclasses.dataclass(frozen=True)
class ChoiceHead(jp.PooledHead):
    """One number for each choice; `-inf` for what pads them."""

    task: ClassVar[str] = "choice"
    fills: ClassVar[Mapping[str, float]] = {"logits": -np.inf}

    def __call__(
        self, params, backbone, hidden: Float[Array, "B C T D"], mask: Bool[Array, "B C T"], dims, key=None
    ) -> Float[Array, "B C"]:
        """Logits of the choices."""
        pooled = pool(self.pooling, backbone, hidden, mask)  # [B, C, D]
        return jnp.where(mask.any(-1), self.classify(params, pooled, dims, key)[..., 0], -jnp.inf)

    def loss(self, logits: Float[Array, "B C"], batch, smoothing: float = 0.0):
        """The cross entropy over the choices of a row."""
        return cross_entropy(logits, batch["right"], batch["weight"], None, smoothing)

    def outputs(self, logits: Float[Array, "B C"], batch):
        """The best choice, all logits, and the losses."""
        named = {"labels": batch["right"]} if "right" in batch else {}
        return {**label_outputs(logits, named), "logits": logits}


@jp.register_task
@dataclasses.dataclass(frozen=True)
class Choice(jp.Task):
    """Rows `{"question": ..., "choices": [...], "right": index}`."""

    source: jp.Files
    max_length: int = 24
    most: int = 4
    metric: str = "accuracy"

    question: ClassVar[str] = "choice"
    cache_version: ClassVar[int | None] = 1

    @property
    def columns(self):
        return ("question", "choices")

    @property
    def choices(self):
        return self.most

    def encode(self, tokenizer, rows, facts):
        tokenizing = jp.Tokenizing(tokenizer, self.max_length, True, pairs=True)
        for index, row in enumerate(rows):
            pairs = [(row["question"], choice) for choice in rows.value(row, index, "choices")]
            found = tokenizing(pairs, [rows.locate(index)] * len(pairs))
            targets = {} if facts is None else {"right": np.array([rows.value(row, index, "right")], np.int32)}
            yield tokenizing.encoded(found, targets, counts=np.array([len(pairs)]))

    def targets(self, count):
        return {"right": jp.TargetSpec("row")}

    def count(self, facts):
        return 1

    @classmethod
    def default_head(cls):
        return ChoiceHead()

    @property
    def metrics(self):
        def accuracy(evaluated):
            return float(np.mean(evaluated.outputs["predictions"] == evaluated.targets["right"]))

        def loss(evaluated):
            return float(np.mean(evaluated.outputs["losses"]))

        return {"accuracy": jp.Metric(accuracy), "loss": jp.Metric(loss, higher_is_better=False)}

    def answers(self, evaluated, inputs, scores):
        shares = np.asarray(jax.nn.softmax(evaluated.outputs["logits"], axis=-1))
        return [
            {"choice": row["choices"][best], "scores": share[: len(row["choices"])].tolist()}
            for row, best, share in zip(inputs, evaluated.outputs["predictions"], shares, strict=True)
        ]


def rows(count, seed):
    """The right choice is the one with a good word; two to four choices."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = [str(word) for word in random.choice(["bad", "dark", "cruel", "loud"], random.integers(2, 5))]
        right = int(random.integers(len(words)))
        words[right] = str(random.choice(["good", "bright", "kind"]))
        texts = [" ".join(["the", *random.choice(["cat", "dog"], random.integers(1, 4)), word]) for word in words]
        found.append({"question": "alice saw", "choices": texts, "right": right})
    return found
