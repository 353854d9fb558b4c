"""What can be known of a tuned model before it is trained: whether it does on a batch what it is meant to do.

Everything is found by behaviour, dropout off: leaves, pads and rows are changed, and it is seen what moves. Much of a
method may be at rest at its start (LoRA's A while B is 0, the keys under a no-op start), where it does neither good nor
harm; so most is asked of leaves that have made a random step away from it, and what concerns the start, of both.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprefix.edits import Edits
from jaxprefix.errors import listed
from jaxprefix.models.tuned import TunedModel
from jaxprefix.self_check.probe import Probe, distance, forward_probe, live_gradients, own_edits, tolerance
from jaxprefix.self_check.report import Check, CheckItem
from jaxprefix.self_check.upweight import last_with_virtual_tokens, upweight_virtual_tokens
from jaxprefix.training.perturbations import other_rows, other_words_at_pads, perturb
from jaxprefix.trees import Tree, flatten

SATURATED = 0.01  # a gate or weight nearer than that to 0 or 1 has almost no gradient
MANY = 0.25  # share of saturated ones from which it is worth a warning
MORE_PADDING = 8
_SOMETHING = 2e-5  # of the size of outputs: more than two programs of one function differ by

UNREAD = {
    "backbone/pooler/": "the head does not read the pooler",
    "backbone/mlm/": "the head does not read the masked-LM transform",
    "k/bias": "it shifts all scores of a query alike, which only virtual tokens make visible",
    "k/b": "it shifts all scores of a query alike, which only virtual tokens make visible",
}
"""Beginnings or ends of the paths of leaves that may have no gradient at all, and why."""


def check(model: TunedModel, trainable: Tree, frozen: Tree, batch: dict[str, Any]) -> Check:
    """Looks whether a tuned model does on a batch what it is meant to do, before it is trained.

    Asked is: do the tokens fit the position table; does the method change the output; does every trainable leaf have a
    gradient; does padding matter, in number or in kind; do rows of a batch matter to each other; do all real tokens
    see the virtual ones; does the fused attention agree with its reference; are gates and inducer weights saturated.

    Args:
      model: backbone, method and head.
      trainable: as `model.apply` takes it.
      frozen: as `model.apply` takes it.
      batch: `input_ids` int `[B, T]`, `attention_mask` bool, `token_type_ids` int; with `labels` and `weight` the
        gradient is that of the head's loss, else that of a random sum of the outputs. A few short rows are enough, two
        at least, some of them padded.
    """
    dims, batch = model.backbone.dims, {name: jnp.asarray(value) for name, value in batch.items()}
    shape = batch["input_ids"].shape
    batch.setdefault("attention_mask", jnp.ones(shape, bool))
    model = dataclasses.replace(model, backbone=model.backbone.clone(unroll=False))  # compiles in a layer's time
    edits = own_edits(model, trainable)
    budget = _positions(shape[1], edits.positions, dims.positions)
    if budget.status == "failed":
        return Check((budget,))
    moved = jax.tree.map(jnp.asarray, perturb(jax.device_get(trainable)))
    see, there = functools.partial(forward_probe, model, moved, frozen), own_edits(model, moved)
    now, then = forward_probe(model, trainable, frozen, batch, edits), see(batch, there)
    mask = np.asarray(batch["attention_mask"])
    slow = dataclasses.replace(model, backbone=model.backbone.clone(attention="reference"))
    return Check(
        (
            budget,
            _finite(now, mask),
            _changes_output(functools.partial(forward_probe, model, trainable, frozen), see, batch, edits, now, then),
            _gradients(model, trainable, moved, frozen, batch),
            *_padding(see, batch, there, then, dims.positions - shape[1] - edits.positions, model.backbone.config),
            _batch_mates(see, batch, there, then),
            _mask_width(see, batch, there, then),
            _reference(
                model.backbone.attention, functools.partial(forward_probe, slow, moved, frozen), batch, there, then
            ),
            *_saturation(now.observed, mask),
        )
    )


def _positions(tokens: int, virtual: int, there: int) -> CheckItem:
    measured = f"{tokens} tokens + {virtual} of the method, of {there}"
    if tokens + virtual <= there:
        return CheckItem("position budget", "passed", measured)
    remedy = "shorten the texts (max_length) or the prefix, or turn the position offset off"
    return CheckItem("position budget", "failed", measured, remedy)


def _finite(now: Probe, mask: np.ndarray) -> CheckItem:
    outputs = [now.hidden[mask]] if now.logits is None else [now.hidden[mask], now.logits]
    bad = sum(int((~np.isfinite(np.asarray(values, np.float32))).sum()) for values in outputs)
    if not bad:
        return CheckItem("finite", "passed", "hidden states and logits are")
    remedy = "look for infinite leaves in the backbone's folder, or start the method smaller"
    return CheckItem("finite", "failed", f"{bad:,} numbers are not", remedy)


def _changes_output(see: Any, see_moved: Any, batch: Tree, edits: Edits, now: Probe, then: Probe) -> CheckItem:
    name = "method changes the output"
    if not edits.layers and edits.prompt is None:
        return CheckItem(name, "not applicable", "it edits no layer")
    bare, mask = Edits(position_offset=edits.positions, words=edits.words), np.asarray(batch["attention_mask"])
    by = distance(see(batch, bare), now, mask)
    if by > _SOMETHING:
        return CheckItem(name, "passed", f"by up to {by:.2g} of the outputs' size")
    by = distance(see_moved(batch, bare), then, mask)
    if by > _SOMETHING:
        return CheckItem(name, "passed", f"not at the start, and by up to {by:.2g} once its leaves have moved")
    remedy = "let one of its hooks return something else than it was given"
    return CheckItem(name, "failed", "the backbone computes the same without it", remedy)


def _gradients(model: TunedModel, trainable: Tree, moved: Tree, frozen: Tree, batch: Tree) -> CheckItem:
    name = "gradients"
    both = set(flatten(trainable.get("backbone", {}))) & set(flatten(frozen["backbone"]))
    if both:
        return CheckItem(name, "failed", f"{listed(sorted(both))} in both trees", "make the trees with model.init")
    at_rest = _dead(model, trainable, frozen, batch)
    dead = [path for path in _dead(model, moved, frozen, batch) if path in at_rest]
    unread = {path: why for path in dead if (why := _why_unread(path)) is not None}
    broken = [path for path in dead if path not in unread]
    total = len(flatten(trainable))
    if broken:
        remedy = "let the method's module use them, or remove them"
        return CheckItem(name, "failed", f"{len(broken)} of {total} leaves have none: {listed(sorted(broken))}", remedy)
    measured = f"{total - len(at_rest)} of {total} leaves have one"
    if len(at_rest) > len(dead):
        measured += f"; {listed(sorted(path for path in at_rest if path not in dead))} once the others have moved"
    for reason in sorted(set(unread.values())):
        measured += f"; {listed(sorted(path for path in unread if unread[path] == reason))} never: {reason}"
    return CheckItem(name, "passed", measured)


def _dead(model: TunedModel, trainable: Tree, frozen: Tree, batch: Tree) -> list[str]:
    return [path for path, live in live_gradients(model, trainable, frozen, batch).items() if not live]


def _why_unread(path: str) -> str | None:
    return next((why for part, why in UNREAD.items() if path.startswith(part) or path.endswith(f"/{part}")), None)


def _padding(see: Any, batch: Tree, edits: Edits, now: Probe, room: int, config: Any) -> Iterable[CheckItem]:
    names, more = ("padding invariance", "pads are not seen"), min(room, MORE_PADDING)
    if more < 1:
        return [CheckItem(name, "not applicable", "the position table has no room for more padding") for name in names]
    ids, mask = (np.pad(np.asarray(batch[name]), ((0, 0), (0, more))) for name in ("input_ids", "attention_mask"))
    ids[:, ids.shape[1] - more :] = config.padding_id
    wide = {"input_ids": jnp.asarray(ids), "attention_mask": jnp.asarray(mask)}
    if "token_type_ids" in batch:
        wide["token_type_ids"] = jnp.pad(batch["token_type_ids"], ((0, 0), (0, more)))
    padded = see(wide, edits)
    others = {**wide, "input_ids": jnp.asarray(other_words_at_pads(ids, mask, config.vocab))}
    remedy = "mask padding wherever tokens are summed (Inducer: legacy_mask=False)"
    return [
        _same(names[0], now, _narrow(padded, now), mask[:, :-more], f"with {more} more pads", remedy),
        _same(names[1], padded, see(others, edits), mask, "with other words in their place", remedy),
    ]


def _narrow(probe: Probe, like: Probe) -> Probe:
    tokens = like.hidden.shape[1]
    logits = probe.logits if probe.logits is None or probe.logits.ndim == 2 else probe.logits[:, :tokens]
    return Probe(probe.hidden[:, :tokens], logits, probe.observed)


def _batch_mates(see: Any, batch: Tree, edits: Edits, now: Probe) -> CheckItem:
    name, rows = "batch invariance", batch["input_ids"].shape[0]
    if rows < 3:
        return CheckItem(name, "not applicable", f"the batch has {rows} rows", "give it three")
    other = see(other_rows(batch), edits)
    kept = [0, rows - 1]
    mine, theirs = (Probe(x.hidden[kept], None if x.logits is None else x.logits[kept], ()) for x in (now, other))
    remedy = "let no hook sum or average over rows"
    return _same(name, mine, theirs, np.asarray(batch["attention_mask"])[kept], "among other rows", remedy)


def _same(name: str, a: Probe, b: Probe, mask: np.ndarray, how: str, remedy: str) -> CheckItem:
    by = distance(a, b, mask)
    measured = f"{how}, outputs differ by up to {by:.1g} of their size"
    return CheckItem(name, "passed", measured) if by <= tolerance(a) else CheckItem(name, "failed", measured, remedy)


def _mask_width(see: Any, batch: Tree, edits: Edits, now: Probe) -> CheckItem:
    """The virtual tokens of the last layer that has any are made heavier, so that no later one can spread what follows;
    a prompt at the embeddings is moved. (Keys and values may be behind closed gates; a mass is not.)"""
    name, layer = "every token sees virtual ones", last_with_virtual_tokens(edits, batch["attention_mask"], now.hidden)
    if layer is not None:
        changed = upweight_virtual_tokens(edits, layer)
    elif edits.prompt is not None:
        changed = dataclasses.replace(edits, prompt=edits.prompt + 0.5)
    else:
        return CheckItem(name, "not applicable", "the method has none")
    other, mask = see(batch, changed), np.asarray(batch["attention_mask"])
    blind = int((np.abs(np.asarray(now.hidden - other.hidden, np.float32)).max(-1)[mask] == 0).sum())
    measured = f"{mask.sum() - blind:,} of {mask.sum():,} real tokens notice a change of them"
    if not blind:
        return CheckItem(name, "passed", measured)
    return CheckItem(name, "failed", measured, "let no mask hide virtual tokens")


def _reference(attention: str, see_slow: Any, batch: Tree, edits: Edits, now: Probe) -> CheckItem:
    name = "fused against reference attention"
    if attention == "reference":
        return CheckItem(name, "not applicable", "the backbone computes the reference")
    remedy = "report this as a bug, and build the backbone with attention='reference' meanwhile"
    return _same(
        name, now, see_slow(batch, edits), np.asarray(batch["attention_mask"]), f"{attention} beside it", remedy
    )


def _saturation(observed: tuple[dict[str, np.ndarray], ...], mask: np.ndarray) -> Iterable[CheckItem]:
    for name, key, remedy in (
        ("saturated gates", "alpha", "lower gate_learning_rate or gate_std"),
        ("saturated inducer weights", "weight", "expect little from the key's MLP, or take key_mode='identity'"),
    ):
        found = [seen[key] for seen in observed if key in seen]
        if not found:
            yield CheckItem(name, "not applicable", "the method has none")
            continue
        if key == "weight":  # [L, B, H, T]; rows of a prompt stand before the text and are left out
            found = [np.moveaxis(p[..., p.shape[-1] - mask.shape[1] :], 2, -1)[:, mask] for p in found]
        values = np.concatenate([np.ravel(p) for p in found])
        low, high = float((values < SATURATED).mean()), float((values > 1 - SATURATED).mean())
        measured = f"{100 * low:.3g} % below {SATURATED}, {100 * high:.3g} % above {1 - SATURATED}"
        many = low + high > MANY
        yield CheckItem(name, "warning" if many else "passed", measured, remedy if many else "")
