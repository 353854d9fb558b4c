"""Prefixes of the `adapters` library (adapter-hub), flat or with their MLP, and its classification and tagging heads.

One pool makes the prefixes of all layers that are not left out; files hold it once for the model and once more for
every layer. Real tokens keep their positions (`position_offset=False`), which is the difference from PEFT. Its
flexible heads are stacks of linear maps: two with a tanh on the first token are our `pooling="trained_pooler"`, one is
`"first"`, or `"pooler"` where the head asks for the backbone's.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.exchange.converted import Converted, as_adapter, read_base
from jaxprefix.exchange.files import read_json, read_tensors
from jaxprefix.exchange.layout import Tensors, from_linear, from_table, refuse_unknown, reparameterised, take
from jaxprefix.methods import PrefixTuning, PTuningV2
from jaxprefix.methods.prefix import PrefixMethod
from jaxprefix.tasks import Classification, SequenceClassifier, Tagging, TokenClassifier
from jaxprefix.tasks.base import Task
from jaxprefix.trees import Tree

CONFIG, HEAD_CONFIG = "adapter_config.json", "head_config.json"
LIBRARY = "the adapters library"


def import_adapters(
    source: str | Path | Mapping[str, np.ndarray],
    *,
    backbone: str | None = None,
    config: Mapping[str, Any] | None = None,
    head_config: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    task: Classification | Tagging | None = None,
    tokenizer: str | None = None,
) -> Adapter:
    """A prefix-tuning adapter of the `adapters` library with its head, as an adapter of ours.

    Args:
      source: a folder that its `save_adapter(folder, name, with_head=True)` wrote (the `.bin` files need torch), or
        the tensors of both files as numpy arrays by name.
      backbone: folder or hub name of the model; None for the one that the configuration names.
      config: what `adapter_config.json` holds; None reads it from the folder.
      head_config: what `head_config.json` holds; None reads it from the folder.
      labels: names in the order of the logits; None for those of the head, else LABEL_0, LABEL_1, ...
      task: columns, templates and cutting of texts, where rows are more than one text.
      tokenizer: folder or hub name of the tokenizer, where the model's folder has none; None for the one there.

    Raises:
      UserError: another method, gates, another kind of head, missing or unknown tensors.
    """
    if isinstance(source, Mapping):
        if config is None or head_config is None:
            raise UserError("tensors alone do not tell how a prefix was made; give config and head_config with them.")
        tensors = source
    else:
        folder = Path(source).expanduser()
        config = config or read_json(folder / CONFIG)
        head_config = head_config or read_json(folder / HEAD_CONFIG)
        tensors = {
            **read_tensors(folder, "adapter", "pytorch_adapter"),
            **read_tensors(folder, "model_head", "pytorch_model_head"),
        }
    name = backbone or config.get("model_name")
    if not name:
        raise UserError(f"{CONFIG} does not name the model; give it as backbone.")
    base = read_base(str(name), tokenizer)
    found = from_adapters(tensors, config, head_config, base.module.dims)
    return as_adapter(found, base, labels, task, tokenizer)


def from_adapters(tensors: Tensors, config: Mapping[str, Any], head_config: Mapping[str, Any], dims: Dims) -> Converted:
    """The library's tensors in our terms; an MLP stays one.

    Args:
      tensors: of the adapter and of its head.
      config: of `adapter_config.json`.
      head_config: of `head_config.json`.
      dims: of the backbone.

    Raises:
      UserError: another method, gates, another kind of head, missing, unknown or ill-shaped tensors.
    """
    if dims.causal:
        raise UserError(
            f"adapters of {LIBRARY} are imported for encoders, whose heads read the first token; a decoder's read the "
            "last one, so name an encoder."
        )
    settings = config.get("config")
    if not isinstance(settings, Mapping) or settings.get("architecture") != "prefix_tuning":
        found = settings.get("architecture") if isinstance(settings, Mapping) else settings
        raise UserError(f"{CONFIG} describes {found!r}, and only prefix_tuning can be imported; give such an adapter.")
    if settings.get("use_gating"):
        raise UserError(
            f"{CONFIG} has use_gating = true, which no method here computes; import a prefix without gates."
        )
    pool, seen = _pool(tensors)
    method, leaves = _prefix(pool, settings, dims)
    kind, head, trained, labels, head_names = _head(tensors, head_config, dims)
    refuse_unknown(tensors, seen | head_names, LIBRARY)
    return Converted(method, kind, head, {"method": leaves, **trained}, labels=labels)


def _pool(tensors: Tensors) -> tuple[dict[str, np.ndarray], set[str]]:
    """The pool's tensors under their own names, and all names under which files hold them."""
    pool: dict[str, np.ndarray] = {}
    seen: dict[str, str] = {}
    adapters = set()
    for name, tensor in tensors.items():
        found = re.search(r"(?:^|\.)prefix_tunings\.([^.]+)\.self_prefix\.(.+)$", name)
        if found is None:
            continue
        adapters.add(found[1])
        if len(adapters) > 1:
            raise UserError(f"the files hold the adapters {', '.join(sorted(adapters))}; save one of them alone.")
        if found[2] in pool and not np.array_equal(pool[found[2]], tensor):
            raise UserError(f"{name} differs from its copy under another layer; save the adapter again.")
        pool[found[2]] = np.asarray(tensor)
        seen[name] = found[2]
    if not pool:
        raise UserError("the files hold no prefix_tunings.*.self_prefix tensors; give a prefix-tuning adapter.")
    if unknown := set(pool) - {"wte.weight", "control_trans", *_linear("control_trans.0"), *_linear("control_trans.2")}:
        raise UserError(f"the prefix holds {', '.join(sorted(unknown))}, which is unknown; import another adapter.")
    return pool, set(seen)


def _linear(name: str) -> tuple[str, str]:
    return f"{name}.weight", f"{name}.bias"


def _prefix(pool: Tensors, settings: Mapping[str, Any], dims: Dims) -> tuple[PrefixMethod, dict[str, np.ndarray]]:
    left_out = set(settings.get("leave_out") or ())
    kept = tuple(layer for layer in range(dims.layers) if layer not in left_out)
    if not kept or not left_out <= set(range(dims.layers)):
        raise UserError(
            f"{CONFIG} has leave_out = {sorted(left_out)} for {dims.layers} layers; name the backbone that was trained."
        )
    columns = 2 * len(kept) * dims.kv_heads * dims.head_width
    common: dict[str, Any] = {
        "layers": kept if left_out else None,
        "position_offset": False,
        "dropout": float(settings.get("dropout") or 0.0),
    }
    if "control_trans" in pool:
        flat = take(pool, "control_trans", (None,))
        if flat.size % columns:
            raise UserError(
                f"the flat prefix has {flat.size} numbers, which are no multiple of the {columns} that a virtual token "
                "has here; name the backbone that it was trained on."
            )
        table = flat.reshape(-1, columns)
        return PTuningV2(length=len(table), **common), from_table(table, len(kept), dims.kv_heads, dims.head_width)
    if (made := settings.get("non_linearity", "tanh")).lower() != "tanh":
        raise UserError(
            f"{CONFIG} has non_linearity = {made!r}, and the MLP here has tanh; call eject_prefix_tuning there and "
            "save again."
        )
    up = from_linear(pool, "control_trans.0", dims.width)
    down = from_linear(pool, "control_trans.2", len(up["bias"]), columns)
    leaves = reparameterised(take(pool, "wte.weight", (None, dims.width)), up, down)
    return PrefixTuning(length=len(leaves["embedding"]), mlp_width=len(up["bias"]), **common), leaves


def _head(
    tensors: Tensors, head_config: Mapping[str, Any], dims: Dims
) -> tuple[type[Task], SequenceClassifier | TokenClassifier, Tree, tuple[str, ...] | None, set[str]]:
    """The kind of task, the head, its leaves, its labels' names, and the names of its tensors."""
    settings = head_config.get("config")
    settings = settings if isinstance(settings, Mapping) else {}
    kind, layers = settings.get("head_type"), settings.get("layers")
    pooled = bool(settings.get("use_pooler"))
    fits = {"classification": layers == 1 or (layers == 2 and not pooled), "tagging": layers == 1}
    if kind not in fits:
        raise UserError(
            f"{HEAD_CONFIG} has head_type = {kind!r}, and only classification and tagging can be imported; save the "
            "adapter with such a flexible head (AutoAdapterModel)."
        )
    if not fits[kind] or (layers == 2 and settings.get("activation_function") != "tanh"):
        raise UserError(
            f"{HEAD_CONFIG} describes a {kind} head of {layers} layers that has no counterpart here; import one of a "
            "single layer, or for classification of two with tanh on the first token."
        )
    if settings.get("bias") is False:
        raise UserError(f"{HEAD_CONFIG} has bias = false, but a classifier here has a bias; train the head with one.")
    at = f"heads.{head_config.get('name')}"
    dense, last = f"{at}.1", f"{at}.{1 if layers == 1 else 4}"  # dropout, dense, tanh, dropout, linear
    trained: Tree = {"head": {"classifier": from_linear(tensors, last, dims.width)}}
    names = {*_linear(dense), *_linear(last)}
    if layers == 2:
        trained["backbone"] = {"pooler": from_linear(tensors, dense, dims.width, dims.width)}
    pooling = "trained_pooler" if layers == 2 else "pooler" if pooled else "first"
    task, head = Tagging, TokenClassifier()
    if kind == "classification":
        task, head = Classification, SequenceClassifier(pooling=pooling)
    return task, head, trained, _labels(settings.get("label2id")), names


def _labels(numbers: Any) -> tuple[str, ...] | None:
    return tuple(sorted(numbers, key=numbers.__getitem__)) if isinstance(numbers, Mapping) and numbers else None
