"""Rows of TFDS datasets, read through `data_source`: no TensorFlow anywhere."""

import contextlib
import difflib
import hashlib
import importlib
import io
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxprefix.data.rows import Rows
from jaxprefix.data.source import Source
from jaxprefix.errors import UserError
from jaxprefix.paths import cache_folder
from jaxprefix.typed_json import register
from jaxprefix.values import Place

# TFDS finds a dataset once the module that defines it has been imported; for these it has to be told which.
DEFINED_IN = {
    "little_world": "jaxprefix.data.world.builder",
    "glue": "tensorflow_datasets.text.glue",
    "super_glue": "tensorflow_datasets.text.super_glue",
}
GENERATED_HERE = ("little_world",)  # needs no download, so it is kept with the rest of the cache


@register
@dataclass(frozen=True)
class Tfds(Source):
    """A TFDS dataset, read without TensorFlow (so it must be prepared as array_record, which is done on demand)."""

    name: str
    """Name as TFDS spells it, with the config after a slash: `glue/rte`, `little_world/questions`."""
    train: str | None = "train"
    """The split to train on; slices such as `train[:90%]` work."""
    validation: str | None = "validation"
    """The split that chooses the best checkpoint and stops early."""
    test: str | None = "test"
    """The split that is looked at once, at the end."""
    data_dir: Place | None = None
    """Folder of prepared datasets; TFDS's own default (`~/tensorflow_datasets`) where not given."""

    def _open(self, split: str) -> Rows:
        return open_dataset(self.name, getattr(self, split), self.data_dir)


def open_dataset(name: str, split: str, data_dir: str | None = None) -> Rows:
    """Open a split of a TFDS dataset, preparing the dataset as array_record if it is not there.

    Raises `UserError` if the dataset or the split is unknown, needs TensorFlow, was prepared as tfrecord, or cannot be
    downloaded or written.
    """
    builder = _builder(name, data_dir)
    _prepare(builder, name)
    formats = {builder.info.file_format, *(builder.info.alternative_file_formats or ())}
    readable = type(builder.info.file_format).with_random_access()
    if not formats & readable:
        raise UserError(
            f"The dataset {name} in {builder.data_path} was prepared as {builder.info.file_format.value}, which has no "
            'random access; prepare it again in another data_dir with file_format="array_record".'
        )
    chosen = builder.info.file_format if builder.info.file_format in readable else min(formats & readable)
    known = sorted(builder.info.splits)
    if not set(re.findall(r"(?:^|\+)\s*(\w+)", split)) <= {*known, "all"}:
        raise UserError(f"The dataset {name} has no split {split!r}; it has {', '.join(known)}.")
    try:
        rows = builder.as_data_source(split=split, file_format=chosen)
    except (ValueError, KeyError) as error:
        raise UserError(
            f"The split {split!r} of {name} cannot be read ({_first_line(error)}); it has {known}."
        ) from None
    class_names = {}
    for column, feature in builder.info.features.items():
        feature = getattr(feature, "feature", feature)  # Sequence(ClassLabel) holds the label inside
        if getattr(feature, "names", None):
            class_names[column] = tuple(feature.names)
    return Rows(
        name=f"{name}, split {split}",
        identity=f"tfds {builder.info.full_name} {split} {_fingerprint(builder.data_path)}",
        size=len(rows),
        read=lambda index: _plain(rows[index]),
        locate=lambda index: f"{name}, split {split}, row {index}",
        class_names=class_names,
    )


def _builder(name: str, data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    base = re.split(r"[/:]", name)[0]
    if data_dir is None and base in GENERATED_HERE:
        data_dir = str(cache_folder() / "tfds")
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a missing TensorFlow makes TFDS print a banner
            if base in DEFINED_IN:
                importlib.import_module(DEFINED_IN[base])
            if data_dir is None:
                return tfds.builder(name)
            return tfds.builder(name, data_dir=str(Path(data_dir).expanduser()))
    except DatasetNotFoundError:
        known = {*tfds.list_builders(with_community_datasets=False), *DEFINED_IN}
        nearest = difflib.get_close_matches(base, known, n=3)
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else "import the module that defines it first."
        raise UserError(f"There is no TFDS dataset {base!r}; {hint}") from None
    except ModuleNotFoundError as error:
        raise _needs_module(name, error) from None
    except (ValueError, TypeError, OSError) as error:
        if "BuilderConfig" in str(error):
            configs = sorted(getattr(tfds.builder_cls(base), "builder_configs", {}))
            nearest = difflib.get_close_matches(name.partition("/")[2].split(":")[0], configs, n=5) or configs[:10]
            raise UserError(
                f"The TFDS dataset {base} has no config of that name ({name}); try {', '.join(nearest)}."
            ) from None
        raise UserError(
            f"The TFDS dataset {name!r} cannot be opened ({_first_line(error)}); correct its name."
        ) from None


def _prepare(builder: Any, name: str) -> None:
    if builder.is_prepared():
        return
    reason: Exception | None = None
    try:
        with _few_retries(), contextlib.redirect_stdout(sys.stderr):
            builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # TFDS lets through whatever requests, its own checks and the disk raise
        reason = error
    if builder.is_prepared():  # also where another process was quicker, which makes our own attempt fail
        return
    if isinstance(reason, ModuleNotFoundError):
        raise _needs_module(name, reason) from reason
    if isinstance(reason, OSError) and type(reason).__module__ == "builtins":
        raise UserError(
            f"The dataset {name} cannot be written to {builder.data_path} ({reason.strerror or reason}); "
            "make room there or name another data_dir."
        ) from reason
    raise UserError(
        f"The dataset {name} is not prepared in {builder.data_path} and could not be downloaded "
        f"({type(reason).__name__}: {_first_line(reason)}); without network, prepare it elsewhere with "
        'download_and_prepare(file_format="array_record") and copy that folder.'
    ) from reason


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Without a network TFDS would retry, silently, for more than three minutes."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 4
    try:
        yield
    finally:
        downloader.MAX_RETRIES = retries


def _needs_module(name: str, error: ModuleNotFoundError) -> UserError:
    # TFDS raises such errors again with more text and without their name.
    module = error.name or next(iter(re.findall(r"No module named '([\w.]+)'", str(error))), "that it names")
    return UserError(
        f"The dataset {name} cannot be had without the package {module}; prepare it where that is installed, with "
        'file_format="array_record", or give the rows as files.'
    )


def _fingerprint(folder: Any) -> str:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    stats = [(path.name, path.stat().length, str(path.stat().mtime)) for path in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def _first_line(error: Exception | None) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _plain(value: Any) -> Any:
    """TFDS gives bytes and numpy scalars; rows hold what JSON has, and bytes that are no text."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:  # an image, say, in a column that no task may read
            return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
