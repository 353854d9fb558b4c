"""The adapter folder: what a finished run leaves behind, a few files that are all a backbone needs to be tuned.

    adapter.safetensors   the trainable leaves and those drawn for the run, by path: "trainable/method/keys"
    adapter.json          the configuration (type-tagged JSON), the backbone it belongs to, the labels, a digest
    metrics.json          what was measured
    README.md             a model card for people

No leaf of the frozen backbone is in it. Leaves are plain nested dicts of arrays, whose keys contain no "/".
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from jaxprefix.checkpoints import card
from jaxprefix.checkpoints.files import OLD, as_path, is_remote, put_folder, recover_folder, resolved, writing
from jaxprefix.data.report import Report, check_report
from jaxprefix.errors import UserError
from jaxprefix.paths import check_entries, parse_json
from jaxprefix.renamed import upgraded_config, upgraded_path

FORMAT = 2
TENSORS, DESCRIPTION, METRICS, CARD = "adapter.safetensors", "adapter.json", "metrics.json", "README.md"
_SUBTREES = {"trainable", "initialized"}


@dataclasses.dataclass(frozen=True)
class AdapterFiles:
    """What an adapter folder holds.

    Attributes:
      trainable: nested dict of numpy arrays, the leaves that were trained.
      initialized: nested dict of numpy arrays, leaves that were not trained but cannot be read from the backbone again.
      config_json: the run's configuration, for `typed_json.from_json`.
      backbone: name, architecture, digest and fingerprint of the backbone it belongs to.
      metrics: what was measured.
      facts: what the task knows of its training rows; the labels' names in the order of the logits under `labels`.
      data: by split, the name and the digest of its rows; None in folders of versions that kept none.
      report: what there is to say of its rows (`data.report`); None in folders of versions that kept none, and where an
        adapter was imported.
      version: the version of jaxprefix that wrote it.
    """

    trainable: dict[str, Any]
    initialized: dict[str, Any]
    config_json: str
    backbone: dict[str, Any]
    metrics: dict[str, Any]
    facts: dict[str, Any]
    data: dict[str, Any] | None
    report: dict[str, Any] | None
    version: str


def write_adapter(
    folder: Any,
    *,
    leaves: dict[str, Any],
    config_json: str,
    backbone: dict[str, Any],
    metrics: dict[str, Any],
    facts: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    report: Report | None = None,
    parents: bool = True,
) -> None:
    """Writes an adapter folder; an older one in its place is replaced, and either the old or the new one is there.

    Other files that somebody put into the older folder are kept. With several processes one of them calls this, with
    leaves that it can read whole.

    Args:
      folder: where to.
      leaves: `{"trainable": ..., "initialized": ...}`, nested dicts of arrays; "initialized" may be left out.
      config_json: what `typed_json.to_json` gave for the run's configuration.
      backbone: as JSON; "name" and, if it is there, "parameters" (their number) are shown in the model card.
      metrics: as JSON; numbers at the top level are shown in the model card.
      facts: what the task knows of its training rows, as JSON; its `labels` are shown in the model card.
      data: by split, the name and the digest of its rows; None where nothing is known of them.
      report: what there is to say of its rows, shown in the model card; None where nothing is known of them.
      parents: whether the folders above it are created.

    Raises:
      UserError: the place holds something else than an adapter folder, or cannot be written.
    """
    if unknown := set(leaves) - _SUBTREES:
        raise ValueError(
            f"leaves has the subtrees {sorted(unknown)}, but only 'trainable' and 'initialized' belong into it"
        )
    from safetensors.numpy import save

    flat = dict(_flat(leaves, ""))
    arrays = {name: np.asarray(leaf) for name, leaf in flat.items() if leaf is not _EMPTY}
    for name, leaf in arrays.items():
        if leaf.dtype.name not in _DTYPES:
            raise ValueError(f"the leaf {name} is {leaf.dtype}; an adapter holds {', '.join(_DTYPES)}")
    contiguous = {name: leaf.copy(order="C") for name, leaf in arrays.items()}  # `ascontiguousarray` reshapes scalars
    tensors = save(contiguous, {"format": f"jaxprefix-{FORMAT}"})
    description = {
        "format": FORMAT,
        "jaxprefix": _version(),
        "config": json.loads(config_json),
        "backbone": backbone,
        "labels": facts.get("labels"),
        "facts": {name: value for name, value in facts.items() if name != "labels"},
        "data": None if data is None else dict(data),
        "report": None if report is None else dict(report),
        "sha256": hashlib.sha256(tensors).hexdigest(),
        "empty": [name for name, leaf in flat.items() if leaf is _EMPTY],
    }
    trained = sum(leaf.size for name, leaf in arrays.items() if name.startswith("trainable/"))
    folder = resolved(folder)
    text = card.model_card(
        folder.name, description["config"], backbone, metrics, facts.get("labels"), trained, len(tensors), report
    )
    with writing("the adapter", folder):
        recover_folder(folder)
        _check_replaceable(folder)
        check_entries(folder)
        staged = folder.parent / f"{folder.name}.partial"
        if staged.exists():
            staged.rmtree()
        staged.mkdir(parents=parents)
        try:
            (staged / TENSORS).write_bytes(tensors)
            (staged / DESCRIPTION).write_text(_json(description))
            (staged / METRICS).write_text(_json(metrics))
            (staged / CARD).write_text(text)
            for other in folder.iterdir() if folder.exists() else ():
                if other.name not in (TENSORS, DESCRIPTION, METRICS, CARD):
                    _copy(other, staged / other.name)
            put_folder(staged, folder)
        finally:
            if staged.exists():
                staged.rmtree()


def read_adapter(folder: Any) -> AdapterFiles:
    """Reads an adapter folder; arrays as numpy arrays, bfloat16 included.

    Raises:
      UserError: it is no adapter folder, some file of it is damaged, or a newer version wrote it.
    """
    folder = as_path(folder)
    old = folder.parent / (folder.name + OLD)
    if not folder.exists() and old.exists():  # the process died while it replaced the folder
        folder = old
    if not is_remote(folder):
        check_entries(folder)
    if not (folder / DESCRIPTION).exists():
        raise UserError(
            f"{folder} is not an adapter folder, it has no {DESCRIPTION}; give the folder that a finished run left."
        )
    try:
        name = DESCRIPTION
        description = parse_json((folder / name).read_bytes())
        form = description["format"]
        if form > FORMAT:
            raise UserError(
                f"the adapter {folder} was written by jaxprefix {description['jaxprefix']} in format "
                f"{form}, and this version reads up to {FORMAT}; upgrade jaxprefix."
            )
        config, empty = json.dumps(upgraded_config(description["config"], form)), description["empty"]
        backbone, version = description["backbone"], description["jaxprefix"]
        named = {} if description["labels"] is None else {"labels": description["labels"]}
        facts = description.get("facts", {})
        digest, data, report = description["sha256"], description.get("data"), description.get("report")
        if report is not None:
            check_report(report)
        _check_tables(backbone=backbone, facts=facts, data={} if data is None else data)
        _check_texts(*named.get("labels", ()))
        facts = {**named, **facts}
        _check_texts(version, *(backbone[key] for key in ("name", "digest") if key in backbone), *empty)
        name = METRICS
        metrics = parse_json((folder / name).read_bytes())
        _check_tables(metrics=metrics)
        name = TENSORS
        tensors = (folder / name).read_bytes()
        if hashlib.sha256(tensors).hexdigest() != digest:
            raise ValueError("its content does not match the digest in adapter.json")
        flat = {**named_arrays(tensors), **dict.fromkeys(empty, _EMPTY)}
        tree = _nested({upgraded_path(path, form): leaf for path, leaf in flat.items()})
        unknown = [name for name, part in tree.items() if name not in _SUBTREES or not isinstance(part, dict)]
        if unknown:
            raise ValueError(f"it has leaves outside 'trainable' and 'initialized' ({unknown[0]!r})")
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = "it is missing" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"the file {name} of the adapter {folder} is damaged ({reason}); copy the folder again or export again."
        ) from error
    return AdapterFiles(
        tree.get("trainable", {}), tree.get("initialized", {}), config, backbone, metrics, facts, data, report, version
    )


_DTYPES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "bool": "BOOL"} | {
    f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}  # by numpy's names, the names of the safetensors format


def named_arrays(tensors: bytes) -> dict[str, np.ndarray]:
    """Named arrays of a safetensors file; the library's own numpy reader knows no bfloat16."""
    import ml_dtypes
    from safetensors import SafetensorError, deserialize

    dtypes = {code: np.dtype(getattr(ml_dtypes, name, name)) for name, code in _DTYPES.items()}
    try:
        entries = deserialize(tensors)
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file: {error}") from error
    return {
        name: np.frombuffer(bytes(entry["data"]), dtypes[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in entries
    }


_EMPTY: Any = object()  # stands for a dict without entries, which has no arrays to be named by


def _flat(tree: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        yield prefix, tree
    elif not tree and prefix:
        yield prefix, _EMPTY
    else:
        for key, item in tree.items():
            if not isinstance(key, str) or "/" in key or not key:
                raise ValueError(f"the key {key!r} below {prefix!r} must be text without a '/'")
            yield from _flat(item, f"{prefix}/{key}" if prefix else key)


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = {} if leaf is _EMPTY else leaf
    return tree


def _check_tables(**values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, dict):
            raise ValueError(f"{name} is no table")


def _check_texts(*values: Any) -> None:
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{value!r} is no text")


def _check_replaceable(folder: Any) -> None:
    """Only an adapter folder or an empty one is ever replaced."""
    if folder.exists() and not (folder.is_dir() and ((folder / DESCRIPTION).exists() or not any(folder.iterdir()))):
        raise UserError(
            f"{folder} exists and is not an adapter folder; choose another place for the adapter, or move it away."
        )


def _copy(source: Any, target: Any) -> None:
    if source.is_dir():
        target.mkdir()
        for inner in source.iterdir():
            _copy(inner, target / inner.name)
    else:
        source.copy(target)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=float) + "\n"  # numpy's and JAX's scalars as floats


def _version() -> str:
    try:
        return importlib.metadata.version("jaxprefix")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
