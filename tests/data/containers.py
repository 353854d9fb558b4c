"""Stand-ins for what rows lie in where a library may not be installed: what `InMemory` asks of it, and no more."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa


class Frame:
    """Of pandas: columns as arrays by position, missing values as NaN or pandas' own mark, an index that counts
    otherwise."""

    def __init__(self, rows, missing=float("nan")):
        self.columns = list(rows[0])
        self._columns = [[missing if row[name] is None else row[name] for row in rows] for name in self.columns]

    def __len__(self):
        return len(self._columns[0])

    def __getitem__(self, name):
        raise KeyError(name)

    class _Columns:
        def __init__(self, columns):
            self._columns = columns

        def __getitem__(self, place):
            every, number = place
            assert every == slice(None)
            return SimpleNamespace(array=self._columns[number])

    iloc = property(lambda self: Frame._Columns(self._columns))


class NAType:
    """Like `pandas.NA`, which is neither equal to anything nor true nor false."""

    def __eq__(self, other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = object.__hash__


class Dataset:
    """Of `datasets`: a row by its number, a dict of columns by a slice; `features` tell classes."""

    def __init__(self, rows, classes=None, form=list):
        self._rows, self._form = rows, form
        self.features = {name: SimpleNamespace(names=(classes or {}).get(name)) for name in rows[0]}
        self.slices = 0

    def with_format(self, form):
        raise AssertionError("its own format applies")

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, place):
        if isinstance(place, int):
            raise AssertionError("one row costs what many do")
        self.slices += 1
        rows = self._rows[place]
        if self._form is pa.Table:
            return pa.Table.from_pylist(rows)
        return {name: self._form([row[name] for row in rows]) for name in self.features}


class Source:
    """Of Grain: a length and rows by number."""

    def __init__(self, rows):
        self._rows = rows

    def __len__(self):
        return len(self._rows)

    def __getitem__(self, index):
        return self._rows[index]


def as_numpy(value):
    """A value as numpy has it, where numpy has it without loss."""
    if isinstance(value, list):
        return np.array(value, object if any(isinstance(item, str) for item in value) else None)
    return value if value is None else np.array(value)[()]
