"""Published configurations by name: `jp.published.APT_RTE_BERT_LARGE.run(task)` is a run.

`list_published()` gives them all, each with its source.
"""

import difflib

from jaxprefix.methods.base import Method
from jaxprefix.published.inducer import GENERATION, GLUE
from jaxprefix.published.p_tuning_v2 import APT, APT_GRID, P_TUNING_V2
from jaxprefix.published.value import Published

_ALL = {value.name: value for value in (*P_TUNING_V2, *APT, *GLUE, *GENERATION)}

__all__ = ["APT_GRID", "Published", "list_published", "of_method", *sorted(_ALL)]  # pyright: ignore[reportUnsupportedDunderAll]  # made from one table


def list_published() -> tuple[Published, ...]:
    """Every published configuration, in the order of the papers."""
    return tuple(_ALL.values())


def of_method(method: Method) -> tuple[Published, ...]:
    """The configurations whose method is this one."""
    return tuple(value for value in _ALL.values() if value.method == method)


def __getattr__(name: str) -> Published:
    if name in _ALL:
        return _ALL[name]
    near = difflib.get_close_matches(name, _ALL, n=1)
    hint = f"; the nearest known name is {near[0]!r}" if near else ""
    raise AttributeError(f"jaxprefix.published has no configuration {name!r}{hint}")


def __dir__() -> list[str]:
    return __all__
