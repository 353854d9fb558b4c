"""A run in tables, before it runs."""

import dataclasses
from typing import Any

import jax

from jaxprefix.attention.operation import DEFAULT
from jaxprefix.training.config import Run
from jaxprefix.training.setup import Setup, set_up
from jaxprefix.trees import count, flatten


def describe(run: Run, console: Any = None) -> Setup:
    """Prints backbone, method, head, parameters, shapes of the trainable leaves, and the attention's implementation.

    Args:
      run: the config; its backbone and training rows are read, nothing is compiled.
      console: a `rich` console; None prints to standard output.

    Returns:
      The setup that was described.
    """
    from rich.console import Console
    from rich.table import Table

    run.check()
    setup = set_up(run, splits=("train",))
    console = Console() if console is None else console
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(setup).items():
        facts.add_row(name, value)
    console.print(facts)

    shapes = Table("trainable leaf", "shape", "dtype", "parameters", title_justify="left", box=None, pad_edge=False)
    shapes.columns[-1].justify = "right"
    for path, leaf in flatten(setup.trainable).items():
        shapes.add_row(path, "x".join(map(str, leaf.shape)) or "scalar", str(leaf.dtype), f"{leaf.size:,}")
    console.print()
    console.print(shapes)
    return setup


def _facts(setup: Setup) -> dict[str, str]:
    run, config = setup.run, setup.model.backbone.config
    trained, frozen = count(setup.trainable), count(setup.frozen)
    born = count(setup.frozen["born"])
    examples = setup.examples["train"]
    return {
        "backbone": f"{setup.backbone.identity['source']}: {config.kind}, {config.layers} layers x {config.width}, "
        f"{config.heads} heads, {config.vocab:,} word pieces, {run.precision}",
        "method": _fields(run.method),
        "head": _fields(setup.model.head),
        "trainable": f"{trained:,} of {trained + frozen:,} parameters ({100 * trained / (trained + frozen):.3g} %): "
        + ", ".join(f"{name} {count(tree):,}" for name, tree in setup.trainable.items()),
        "frozen": f"{frozen:,} parameters" + (f", {born:,} of them drawn at random for this run" if born else ""),
        "positions": _positions(setup),
        "labels": ", ".join(setup.labels) or "none",
        "rows": f"{len(examples):,} for training, {examples.lengths.min()} to {examples.lengths.max()} tokens",
        "attention": f"{DEFAULT} on {jax.default_backend()}",
        "mesh": ", ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items()),
    }


def _positions(setup: Setup) -> str:
    offset = setup.model.edits(setup.trainable).positions
    longest = int(setup.examples["train"].lengths.max())
    return f"{longest} tokens + {offset} of the prefix, of {setup.model.backbone.dims.positions}"


def _fields(value: Any) -> str:
    fields = (f"{field.name}={getattr(value, field.name)!r}" for field in dataclasses.fields(value))
    return f"{type(value).__name__}({', '.join(fields)})"
