"""What is asked of the adapters of the past: every use of the package's names and batch keys in one place."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprefix as jp
from jaxprefix.checkpoints.adapter import read_adapter
from jaxprefix.trees import flatten
from jaxprefix.typed_json import from_json

PAST = Path(__file__).parent
LENGTHS = (7, 4, 1)  # tokens of the rows whose logits are compared, padding on the right
TEXTS = ("a good cat sat on the mat", "the cruel dog ran", "calm")
NEW = 4  # tokens of a generated text


def names() -> list[str]:
    """The adapters, by the names of their folders under `adapters/`."""
    return sorted(folder.name for folder in (PAST / "adapters").iterdir())


def run_of(name: str) -> jp.Run:
    """The config of an adapter."""
    return from_json(read_adapter(PAST / "adapters" / name).config_json, jp.Run)


def open_adapter(name: str, backbones: dict[str, Any]) -> Any:
    """An adapter, to be called with `tests/past` as the current folder; adapters on the same backbone share it.

    Args:
      name: its folder's.
      backbones: those that were read already, by what the adapters' configs say of them; this call may add one.
    """
    config = json.loads((PAST / "adapters" / name / "adapter.json").read_text())["config"]
    key = json.dumps([config[field] for field in ("backbone", "quantize", "hidden_dropout", "attention_dropout")])
    new = not isinstance(config["backbone"], str)  # drawn from the run's own seed, so that nothing can be shared
    adapter = jp.load_adapter(f"adapters/{name}", backbone=None if new else backbones.get(key))
    if not new and getattr(adapter.run.task, "format", None) is None:  # a format adds tokens to the tokenizer
        backbones.setdefault(key, adapter.backbone)
    return adapter


def leaves_of(adapter: Any) -> dict[str, tuple[int, ...]]:
    """Shapes of the trained leaves and of those that were drawn, by their paths."""
    stored = {"trainable": adapter.trainable, "initialized": adapter.frozen["initialized"]}
    return {path: leaf.shape for path, leaf in flatten(stored).items()}


def leaves_made_today(adapter: Any) -> dict[str, tuple[int, ...]]:
    """The same of a new adapter with this one's method and head; nothing is computed."""
    made = jax.eval_shape(lambda: adapter.model.init(jax.random.key(0), adapter.backbone.tree))
    stored = {"trainable": made[0], "initialized": made[1]["initialized"]}
    return {path: leaf.shape for path, leaf in flatten(stored).items()}


def batch_of(adapter: Any) -> dict[str, jax.Array]:
    """Three rows of token ids, new words among them where the method has any."""
    words = adapter.model.edits(adapter.trainable).words
    vocab = adapter.backbone.module.dims.vocab + (0 if words is None else len(words))
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    ids = np.random.default_rng(0).integers(5, vocab, mask.shape)
    return {"input_ids": jnp.asarray(np.where(mask, ids, 0), jnp.int32), "attention_mask": jnp.asarray(mask)}


def logits_of(adapter: Any) -> np.ndarray:
    """Logits of the real tokens `[sum of LENGTHS, V or C]`, or of the rows `[3, C]`; float32."""
    batch = batch_of(adapter)
    logits = np.asarray(adapter.model.apply(adapter.trainable, adapter.frozen, batch).logits, np.float32)
    return logits[np.asarray(batch["attention_mask"])] if logits.ndim == 3 else logits


def rows_of(adapter: Any) -> list[Any]:
    """Inputs for `predict` or `generate`, by the columns of the adapter's task."""
    task = adapter.run.task
    lines = [json.loads(line) for line in (PAST / "data" / "held.jsonl").read_text().splitlines()]
    if getattr(task, "format", None) is not None or getattr(task, "template", None) is not None:
        return lines[: len(TEXTS)]
    return [{task.words: text.split()} for text in TEXTS] if isinstance(task, jp.Tagging) else list(TEXTS)


def answers_of(adapter: Any) -> list[Any] | None:
    """Labels with their scores, tags, or texts; None for masked language modelling, which answers nothing."""
    task = adapter.run.task
    if isinstance(task, jp.Classification | jp.Tagging):
        return adapter.predict(rows_of(adapter))
    if isinstance(task, jp.MaskedLanguage):
        return None
    return adapter.generate(rows_of(adapter), jp.Decoding(max_new_tokens=NEW, min_new_tokens=NEW - 2))
