"""Steps that are traced once for all runs and adapters in a process.

A step is all that it is made from (model, optimizer, mesh, numbers), so that runs which agree in them share its trace
and its programs, as evaluations within one run do.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from grain._src.python.experimental.index_shuffle.python import index_shuffle_module

from jaxprefix.adapters import adapter
from jaxprefix.comparison import stages
from jaxprefix.population import loop as population_loop
from jaxprefix.training import loop
from jaxprefix.training.optimizer import Optimizer

MADE = {
    loop: ("make_train_step", "make_eval_step"),
    adapter: ("make_eval_step",),
    stages: ("make_train_step",),
    population_loop: ("make_population_step", "make_population_eval_step"),
}


def made_once(make: Callable[..., Any], steps: dict[Any, Any]) -> Callable[..., Any]:
    """`make`, which gives what it gave before where its arguments are equal but for learning rates, which a step is
    told at every call."""

    def remembered(*args: Any, **options: Any) -> Any:
        same = tuple(dataclasses.replace(one, learning_rate=1.0) if isinstance(one, Optimizer) else one for one in args)
        key = (make, same, tuple(sorted(options.items())))
        if key not in steps:
            steps[key] = make(*args, **options)
        return steps[key]

    return remembered


def share(patch: Any) -> None:
    """Lets whoever makes steps have those that were made before, until `patch` is undone."""
    steps: dict[Any, Any] = {}
    for module, names in MADE.items():
        for name in names:
            patch.setattr(module, name, made_once(getattr(module, name), steps))
    # a pure function that takes the longer the fewer rows there are, up to a millisecond for a row
    patch.setattr(index_shuffle_module, "index_shuffle", functools.cache(index_shuffle_module.index_shuffle))
