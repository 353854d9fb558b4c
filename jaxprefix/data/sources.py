"""Rows of a split as a random-access sequence of dicts, whatever they are stored in."""

from dataclasses import dataclass

from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Files:
    """Your own files, `.jsonl` (one JSON object per line), `.csv` (with a header line) or `.parquet`."""

    train: str
    """The file to train on."""
    validation: str | None = None
    """The file that chooses the best checkpoint and stops early."""
    test: str | None = None
    """The file that is looked at once, at the end."""


@dataclass(frozen=True)
class Tfds:
    """A TFDS dataset, read without TensorFlow (so it must be prepared as array_record, which is done on demand)."""

    name: str
    """Name as TFDS spells it, with the config after a slash: `glue/rte`, `little_world/questions`."""
    train: str | None = "train"
    """The split to train on; slices such as `train[:90%]` work."""
    validation: str | None = "validation"
    """The split that chooses the best checkpoint and stops early."""
    test: str | None = "test"
    """The split that is looked at once, at the end."""
    data_dir: str | None = None
    """Folder of prepared datasets; TFDS's own default (`~/tensorflow_datasets`) where not given."""


Source = Files | Tfds


def given_splits(source: Source) -> tuple[str, ...]:
    """Those of train, validation and test that the source names."""
    return tuple(split for split in SPLITS if getattr(source, split) is not None)


def open_split(source: Source, split: str) -> Rows:
    """Open `train`, `validation` or `test` of a source.

    A TFDS dataset that is not there yet is prepared first. Raises `UserError` if the split is not given, has no rows,
    or cannot be found, downloaded or read; a damaged line is found when its row is read.
    """
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
    place = getattr(source, split)
    if place is None:
        raise UserError(
            f"The data has no {split} split (given: {', '.join(given_splits(source)) or 'none'}); "
            f"name one in the field source.{split}."
        )
    if isinstance(source, Files):
        from jaxprefix.data.files import open_file

        rows = open_file(place)
    else:
        from jaxprefix.data.datasets import open_dataset

        rows = open_dataset(source.name, place, source.data_dir)
    if not len(rows):
        raise UserError(f"The {split} split {rows.name} has no rows; give one that has.")
    return rows
