"""The kinds of sources, each a module: a new one is a module and a line in `SOURCES`."""

from jaxprefix.data.datasets import Tfds
from jaxprefix.data.files import Files
from jaxprefix.data.memory import InMemory
from jaxprefix.data.rows import Rows
from jaxprefix.data.source import Source

SOURCES: tuple[type[Source], ...] = (Files, InMemory, Tfds)


def given_splits(source: Source) -> tuple[str, ...]:
    """Those of train, validation and test that the source names."""
    return source.splits


def open_split(source: Source, split: str) -> Rows:
    """The rows of `train`, `validation` or `test` of a source; see `Source.open` for what is refused."""
    return source.open(split)
