"""The kinds of sources, each a module: a new one is a module and a line in `SOURCES`."""

from jaxprefix.data.datasets import Tfds
from jaxprefix.data.files import Files
from jaxprefix.data.memory import InMemory
from jaxprefix.data.source import Source

SOURCES: tuple[type[Source], ...] = (Files, InMemory, Tfds)
