"""Where virtual tokens begin: at a text that the frozen model has read, at words, at another adapter.

`values.py` has the starts as typed values, `reading.py` what the frozen backbone computes for tokens, `placing.py` how
keys and values become a method's leaves, `starting.py` the function that puts them together. Random numbers, zeros and
the no-op start are the methods' own (`init_std`, `no_op_start`).
"""

from jaxprefix.starts.starting import start, startable
from jaxprefix.starts.values import (
    STARTS,
    AdapterStart,
    LabelStart,
    SinkStart,
    Start,
    TextStart,
    TokenStart,
    VocabularyStart,
)

__all__ = [
    "STARTS",
    "AdapterStart",
    "LabelStart",
    "SinkStart",
    "Start",
    "TextStart",
    "TokenStart",
    "VocabularyStart",
    "start",
    "startable",
]
