"""What every source of rows does: it says which splits it has, and opens them."""

from jaxprefix.contract import Contract, required
from jaxprefix.data.rows import Rows
from jaxprefix.errors import UserError

SPLITS = ("train", "validation", "test")


class Source(Contract):
    """Where rows come from.

    A source is a frozen dataclass with the fields `train`, `validation` and `test`, each None where there is no such
    split. It hashes, compares and is stored as any value of a run is (`typed_json`).
    """

    @required
    def _open(self, split: str) -> Rows:
        """The rows of a split that is given."""
        raise NotImplementedError

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train, validation and test that the source names."""
        return tuple(split for split in SPLITS if getattr(self, split) is not None)

    def open(self, split: str) -> Rows:
        """The rows of `train`, `validation` or `test`.

        Raises:
          UserError: the split is not given, has no rows, or cannot be found or read; a damaged line is found when its
            row is read.
        """
        if split not in SPLITS:
            raise UserError(f"There is no split {split!r}; choose one of {', '.join(SPLITS)}.")
        if split not in self.splits:
            raise UserError(
                f"The data has no {split} split (given: {', '.join(self.splits) or 'none'}); "
                f"name one in the field source.{split}."
            )
        rows = self._open(split)
        if not len(rows):
            raise UserError(f"The {split} split {rows.name} has no rows; give one that has.")
        return rows
