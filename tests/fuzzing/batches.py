"""Batches of arrays through `apply`, `jp.generate`, a bank's logits and losses, op by op on tiny models."""

import random
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprefix as jp
from jaxprefix.renamed import BATCH_KEYS
from tests import decoders, tiny
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import mutate_text, string

TOKENS = ("input_ids", "attention_mask", "token_type_ids", "segment_ids")
KEYS = (*TOKENS, *BATCH_KEYS, "labels", "values", "weight", "position_ids", "special_tokens_mask")
DTYPES = ("int8", "uint8", "int32", "int64", "uint64", "bool", "float32", "float64", "complex64", "object", "U3")
TOLERANCE = 1e-4


class BatchesGate(Gate):
    """A row in a batch has what the row alone has."""

    name = "batches"
    first_check = "the keys: a dict of names that something reads, `input_ids` among them"

    def __init__(self, folder: Path):
        encoder = jp.TunedModel(
            jp.Encoder(tiny.config(layers=1)), jp.PTuningV2(length=2), jp.SequenceClassifier(2, pooling="first")
        )
        shapes = jax.eval_shape(encoder.backbone.init, jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})
        tree = tiny.random_tree(shapes["params"], np.random.default_rng(1), 0.3)
        self.models = {"bert": (encoder, *tiny.drawn(encoder, tree))}
        for kind, method in (("llama", jp.PTuningV2(length=2)), ("gpt2", jp.AdaptivePrefix(length=2))):
            model = jp.TunedModel(jp.Decoder(decoders.config(kind, layers=1)), method, jp.CausalLM())
            self.models[kind] = (model, *tiny.drawn(model, decoders.frozen_tree(kind, layers=1)))
        with jax.disable_jit():  # what a process compiles once and keeps belongs to no trial
            batch = {"input_ids": jnp.ones((2, 4), jnp.int32), "attention_mask": jnp.ones((2, 4), bool)}
            for made in self.models.values():
                made[0].apply(*made[1:], batch)
            jp.generate(*self.models["llama"], batch, jp.Decoding(max_new_tokens=2))

    def draw(self, draw: random.Random, places: Places) -> Trial:
        kind = draw.choice(["bert", "bert", "llama", "llama", "gpt2", "loss"])
        if kind == "loss":
            return _loss(draw)
        model, trainable, frozen = self.models[kind]
        writes = kind == "llama" and draw.random() < 0.3
        batch: Any = _batch(draw, model.backbone.config, writes)
        for _ in range(draw.choice([0, 1, 1, 2])):
            batch = _mutated(draw, batch)

        def call() -> Any:
            with jax.disable_jit():
                if writes:
                    return jp.generate(model, trainable, frozen, batch, jp.Decoding(max_new_tokens=2))
                return model.apply(trainable, frozen, batch).logits

        def right(found: Any) -> None:
            check(self.models[kind], batch, found, writes)

        given = {"model": kind, "writes": writes, "batch": batch}
        size = sum(getattr(value, "nbytes", 100) for value in batch.values()) if isinstance(batch, dict) else 100
        return Trial(given, size, call, right, _about_keys)


def _about_keys(said: str) -> bool:
    return said.startswith(("the batch is a", "the batch has the key", "the batch has no 'input_ids'"))


def _batch(draw: random.Random, config: Any, left: bool) -> dict[str, Any]:
    """What a tokenizer gives: rows of 1 to 4 tokens, padded on a side."""
    rows, columns = 2, 3  # one shape, so that few programs are compiled
    numbers = np.random.default_rng(draw.getrandbits(32))
    ids = numbers.integers(2, config.vocab, (rows, columns))
    real = np.arange(columns)[None] < numbers.integers(1, columns + 1, rows)[:, None]
    if left or draw.random() < 0.5:
        real = real[:, ::-1].copy()
    batch = {"input_ids": np.where(real, ids, getattr(config, "padding_id", 0) or 0)}
    if draw.random() < 0.8:
        batch["attention_mask"] = real if draw.random() < 0.5 else real.astype(draw.choice(["int32", "int64", "uint8"]))
    if config.type_count and draw.random() < 0.5:
        batch["token_type_ids"] = numbers.integers(0, min(config.type_count, 2), ids.shape)
    if not left and draw.random() < (0.2 if config.causal else 0.03):
        batch["segment_ids"] = np.sort(numbers.integers(0, 2, ids.shape), axis=1)
    if not config.causal and draw.random() < 0.15:
        batch = {name: value[None] for name, value in batch.items()}  # [B, C, T]
    if draw.random() < 0.3:
        batch = {name: jnp.asarray(value) for name, value in batch.items()}
    return batch


def _mutated(draw: random.Random, batch: Any) -> Any:
    """The batch with one thing changed."""
    if not isinstance(batch, dict) or not batch:
        return batch
    batch, name = dict(batch), draw.choice([*batch])
    value = batch[name]
    kind = draw.randrange(16)
    if kind == 0:
        batch[draw.choice([mutate_text(draw, name), string(draw), draw.choice(KEYS)])] = batch.pop(name)
    elif kind == 1:
        batch[draw.choice([mutate_text(draw, name), *draw.sample(KEYS, 3), 3])] = draw.choice([value, np.ones(2), 1.0])
    elif kind == 2:
        del batch[name]
    elif kind == 3:
        return draw.choice([[*batch.items()], batch["input_ids"], None, "x", {}]) if "input_ids" in batch else {}
    elif kind == 4:
        batch[name] = draw.choice([np.asarray(value).tolist(), None, 3, "x", [], object()])
    elif not hasattr(value, "shape"):
        return batch
    elif kind < 7:
        array = np.asarray(value)
        batch[name] = draw.choice(
            [array[0], array[:, :0], array[:0], array[None], array[:, :-1], array[:-1], array.T, array.reshape(-1)]
        )
    elif kind < 9:
        array = np.asarray(value)
        try:
            with np.errstate(all="ignore"):
                batch[name] = array.astype(draw.choice(DTYPES))
        except (ValueError, TypeError):
            return batch
    elif array_like(value):
        array = np.array(value)
        place = tuple(draw.randrange(size) for size in array.shape)
        new = draw.choice([-1, -7, 1, 2, 9, 59, 60, 10**6, 2**31 - 1, -(2**31)])
        try:
            array[place] = new
        except (OverflowError, ValueError):
            array = array.astype(np.float64)
            array[place] = draw.choice([np.nan, 0.5, -1e9])
        batch[name] = jnp.asarray(array) if isinstance(value, jax.Array) else array
    return batch


def array_like(value: Any) -> bool:
    """Whether it has entries that are numbers."""
    return getattr(value, "size", 0) > 0 and np.asarray(value).dtype.kind in "iub"


# The oracle


def check(tuned: tuple, batch: dict, found: Any, writes: bool) -> None:
    """Each row's logits, or new tokens, are those of its real columns alone; NaN where an id is in no table."""
    model, trainable, frozen = tuned
    arrays = {name: np.asarray(batch[name]) for name in TOKENS if name in batch}
    columns = arrays["input_ids"].shape[-1]
    flat = {name: value.reshape(-1, columns) for name, value in arrays.items()}
    out = np.asarray(found.tokens if writes else found)
    out = out.reshape(len(flat["input_ids"]), *out.shape[arrays["input_ids"].ndim - 1 :])
    assert model.backbone.config.causal or "segment_ids" not in arrays
    for row in range(len(flat["input_ids"])):
        mask = flat["attention_mask"][row].astype(bool) if "attention_mask" in flat else np.ones(columns, bool)
        if not mask.any():
            continue
        first, last = np.flatnonzero(mask)[[0, -1]]
        alone = {name: value[row : row + 1, first : last + 1] for name, value in flat.items()}
        alone |= {"attention_mask": mask[None, first : last + 1]}
        mine = out[row] if model.head.task == "classification" or writes else out[row, first : last + 1]
        real = mask[first : last + 1]
        if not _in_tables(model, alone, real):
            assert writes or np.isnan(mine).any(), "an id of no table, and no NaN"
            continue
        if not _in_tables(model, {name: value[row : row + 1] for name, value in flat.items()}, np.ones(columns, bool)):
            continue  # padding of no table
        with jax.disable_jit():
            if writes:
                wanted = np.asarray(jp.generate(model, trainable, frozen, alone, jp.Decoding(max_new_tokens=2)).tokens)
                assert mine.tolist() == wanted[0].tolist()
                continue
            wanted = np.asarray(model.apply(trainable, frozen, alone).logits)[0]
        if model.head.task != "classification":
            mine, wanted = mine[real], wanted[real]
        scale = np.abs(wanted).max()
        assert np.abs(mine - wanted).max() <= TOLERANCE * scale, (row, np.abs(mine - wanted).max(), scale)


def _in_tables(model: Any, batch: dict, real: np.ndarray) -> bool:
    """Whether ids and types of the real columns are in their tables."""
    config = model.backbone.config
    ids, types = batch["input_ids"][:, real], batch.get("token_type_ids")
    inside = ((ids >= 0) & (ids < config.vocab)).all()
    if types is not None and config.type_count:
        inside &= ((types[:, real] >= 0) & (types[:, real] < config.type_count)).all()
    return bool(inside)


# Losses


def _loss(draw: random.Random) -> Trial:
    """Cross entropy of labels that may be no class."""
    numbers = np.random.default_rng(draw.getrandbits(32))
    rows, classes = draw.choice([1, 3]), draw.choice([2, 3])
    logits, weight = numbers.normal(size=(rows, classes)), numbers.uniform(0.5, 2, rows)
    pool = [*range(classes), *range(classes), -100, -100, classes, -1, 10**6]
    labels = np.array([draw.choice(pool[: draw.choice([2 * classes, len(pool)])]) for _ in range(rows)])
    smoothing = draw.choice([0.0, 0.3])
    batch: Any = {"labels": labels, "weight": weight}
    for _ in range(draw.choice([0, 0, 1])):
        name = draw.choice(["labels", "weight"])
        change = draw.randrange(4)
        if change == 0:
            del batch[name]
        elif change == 1:
            batch[name] = batch[name].astype(draw.choice(["float32", "int8", "bool"]))
        elif change == 2:
            batch[name] = draw.choice([batch[name].tolist(), batch[name][:-1], batch[name][:, None], None])
    head = jp.SequenceClassifier(classes)

    def call() -> Any:
        with jax.disable_jit():
            return head.loss(jnp.asarray(logits), batch, smoothing)

    def right(found: Any) -> None:
        kept = batch["labels"].astype(int) != -100
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        own = log_p[np.arange(rows), np.where(kept, batch["labels"].astype(int), 0)]
        each = -((1 - smoothing) * own + smoothing * log_p.mean(-1)) * batch["weight"] * kept
        assert abs(float(found[0]) - each.sum()) <= 1e-4 * max(1.0, abs(each.sum()))
        assert abs(float(found[1]) - (batch["weight"] * kept).sum()) <= 1e-4 * rows

    return Trial(
        {"logits": logits, "batch": batch}, 1000, call, right, lambda said: "the batch has no" in said or "is a" in said
    )
