"""A run in tables, before it runs."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxprefix.data.batches import one_batch
from jaxprefix.errors import escaped
from jaxprefix.inspection.attention_calls import attention_calls, attention_lines
from jaxprefix.methods.base import Combined, Method
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.published import of_method
from jaxprefix.training.config import Run
from jaxprefix.training.setup import Setup, set_up
from jaxprefix.trees import Tree, count, flatten


def describe(run: Run, console: Any = None) -> Setup:
    """Prints backbone, method, head, parameters by part (beside what a paper prints for the same method), shapes and
    declarations of the trainable leaves, and which implementation each attention takes, with the reason where it is
    another than the one that was asked for.

    Args:
      run: the config; its backbone and training rows are read, nothing is compiled.
      console: a `rich` console; None prints to standard output.

    Returns:
      The setup that was described.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    run.check()
    setup = set_up(run, splits=("train",))
    console = Console() if console is None else console
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(setup).items():
        facts.add_row(name, Text(escaped(value, keep="\n")))
    console.print(facts)

    parts = Table("part", "trained", "of the backbone", box=None, pad_edge=False)
    for column in parts.columns[1:]:
        column.justify = "right"
    whole = backbone_size(setup.backbone.tree)
    for name, size in _parts(setup).items():
        parts.add_row(name, f"{size:,}", f"{100 * size / whole:.3f} %")
    console.print()
    console.print(parts)
    for line in _printed(run.method):
        console.print(line)

    columns = ("trainable leaf", "shape", "dtype", "group", "decay", "tp axis", "parameters")
    shapes = Table(*columns, title_justify="left", box=None, pad_edge=False)
    shapes.columns[-1].justify = "right"
    table = leaf_table(setup.model)
    for path, leaf in flatten(setup.trainable).items():
        said, shape = table[path], "x".join(map(str, leaf.shape)) or "scalar"
        decay, axis = "yes" if said.decay else "no", "" if said.tp is None else str(said.tp)
        shapes.add_row(path, shape, str(leaf.dtype), said.group, decay, axis, f"{leaf.size:,}")
    console.print()
    console.print(shapes)
    return setup


def backbone_size(tree: Tree) -> int:
    """Parameters of a backbone without a masked-LM head, which is what the papers count."""
    return count({name: leaves for name, leaves in tree.items() if name != "mlm"})


def _parts(setup: Setup) -> dict[str, int]:
    """Trained parameters of each part of the method, of the backbone's own leaves, and of the head."""
    trainable, method = setup.trainable, setup.run.method
    found = {}
    if "method" in trainable:
        own = trainable["method"]
        trees = own if isinstance(method, Combined) else {method.method_name: own}
        found = {name: count(tree) for name, tree in trees.items()}
        if len(found) > 1:
            found["method"] = sum(found.values())
    return found | {name: count(tree) for name, tree in trainable.items() if name != "method"}


def _printed(method: Method) -> list[str]:
    """What papers print for this very method."""
    return [
        f"{value.percent:g} % in print: {value.name} on {value.backbone} ({value.source})"
        for value in of_method(method)
        if value.percent is not None
    ]


def _facts(setup: Setup) -> dict[str, str]:
    run, config = setup.run, setup.model.backbone.config
    trained, frozen = count(setup.trainable), count(setup.frozen)
    initialized = count(setup.frozen["initialized"])
    examples = setup.examples["train"]
    return {
        "backbone": f"{setup.backbone.identity['source']}: "
        f"{config.model_type}, {config.layers} layers x {config.width}, "
        f"{config.heads} heads, {config.vocab:,} word pieces, {run.precision}"
        + (f", layers' kernels {run.quantize}" if run.quantize else ""),
        "method": _fields(run.method),
        "head": _fields(setup.model.head),
        "trainable": f"{trained:,} of {trained + frozen:,} parameters ({100 * trained / (trained + frozen):.3g} %): "
        + ", ".join(f"{name} {count(tree):,}" for name, tree in setup.trainable.items()),
        "frozen": f"{frozen:,} parameters"
        + (f", {initialized:,} of them drawn at random for this run" if initialized else ""),
        "positions": _positions(setup),
        "labels": ", ".join(setup.labels) or "none",
        "rows": f"{len(examples):,} for training, {examples.lengths.min()} to {examples.lengths.max()} tokens"
        + (f"; {examples.cut[0]:,} were longer and were cut" if examples.cut[0] else "")
        + (f", {examples.cut[1]:,} words with a label with them" if examples.cut[1] else ""),
        "attention": _attention(setup),
        "mesh": ", ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items()),
    }


def _attention(setup: Setup) -> str:
    """What the attentions of a forward pass over the longest training rows are computed by."""
    examples = setup.examples["train"]
    longest = np.argsort(examples.lengths, kind="stable")[-setup.run.batch_size :]
    calls = attention_calls(setup.model, setup.trainable, setup.frozen, one_batch(examples, longest))
    first, *others = attention_lines(calls)
    return "\n".join([f"on {jax.default_backend()}: {first}", *others])


def _positions(setup: Setup) -> str:
    longest = int(setup.examples["train"].lengths.max())
    return f"{longest} tokens + {setup.positions} of the prefix, of {setup.model.backbone.dims.positions}"


def _fields(value: Any) -> str:
    fields = (f"{field.name}={getattr(value, field.name)!r}" for field in dataclasses.fields(value))
    return f"{type(value).__name__}({', '.join(fields)})"
