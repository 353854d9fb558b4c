"""A comparison from its methods to its table: equal effort, going on after an interruption, refusals."""

from jaxprefix.comparison import compare as module_of_compare  # noqa: F401
