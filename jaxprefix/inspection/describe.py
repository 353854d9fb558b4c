"""A run in tables, or as JSON, before it runs."""

import dataclasses
from typing import Any

import jax
import numpy as np

from jaxprefix.data.batches import one_batch
from jaxprefix.errors import escaped
from jaxprefix.inspection.attention_calls import attention_calls, attention_lines
from jaxprefix.inspection.describe_report import print_report
from jaxprefix.methods.base import Combined, Method
from jaxprefix.models.leaf_table import leaf_table
from jaxprefix.published import of_method
from jaxprefix.training.config import Run
from jaxprefix.training.setup import Setup, set_up
from jaxprefix.trees import Tree, count, flatten


def describe(run: Run, console: Any = None) -> Setup:
    """Prints backbone, method, head, a report of the rows of all splits, parameters by part (beside what a paper prints
    for the same method), shapes and declarations of the trainable leaves, and which implementation each attention
    takes, with the reason where it is another than the one that was asked for.

    Args:
      run: the config; its backbone and its rows are read, nothing is compiled.
      console: a `rich` console; None prints to standard output.

    Returns:
      The setup that was described.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    setup = _set_up(run)
    console = Console() if console is None else console
    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(setup).items():
        facts.add_row(name, Text(escaped(value, keep="\n")))
    console.print(facts)
    console.print()
    print_report(setup.report, console)

    parts = Table("part", "trained", "of the backbone", box=None, pad_edge=False)
    for column in parts.columns[1:]:
        column.justify = "right"
    whole = backbone_size(setup.backbone.tree)
    for name, size in _parts(setup).items():
        parts.add_row(Text(escaped(name)), f"{size:,}", f"{100 * size / whole:.3f} %")
    console.print()
    console.print(parts)
    for line in _printed(run.method):
        console.print(line)

    columns = ("trainable leaf", "shape", "dtype", "group", "decay", "tp axis", "parameters")
    shapes = Table(*columns, title_justify="left", box=None, pad_edge=False)
    shapes.columns[-1].justify = "right"
    for leaf in _leaves(setup):
        shape, axis = "x".join(map(str, leaf["shape"])) or "scalar", "" if leaf["tp"] is None else str(leaf["tp"])
        decay, size = "yes" if leaf["decay"] else "no", f"{leaf['parameters']:,}"
        shapes.add_row(Text(escaped(leaf["path"])), shape, leaf["dtype"], leaf["group"], decay, axis, size)
    console.print()
    console.print(shapes)
    return setup


def describe_json(run: Run) -> dict[str, Any]:
    """What `describe` prints, as JSON: the facts under their names, `parts` and `leaves`, and the report of the rows
    under `data`."""
    setup = _set_up(run)
    facts = {**_facts(setup), "labels": list(setup.labels)}
    return {**facts, "data": setup.report, "parts": _parts(setup), "leaves": _leaves(setup)}


def _set_up(run: Run) -> Setup:
    run.check()
    return set_up(run)


def _leaves(setup: Setup) -> list[dict[str, Any]]:
    """The trainable leaves as they are declared."""
    table, found = leaf_table(setup.model), []
    for path, leaf in flatten(setup.trainable).items():
        said = table[path]
        declared = {"group": said.group, "decay": said.decay, "tp": said.tp, "parameters": leaf.size}
        found.append({"path": path, "shape": list(leaf.shape), "dtype": str(leaf.dtype), **declared})
    return found


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
    return f"{setup.longest} tokens + {setup.positions} of the prefix, of {setup.model.backbone.dims.positions}"


def _fields(value: Any) -> str:
    fields = (f"{field.name}={getattr(value, field.name)!r}" for field in dataclasses.fields(value))
    return f"{type(value).__name__}({', '.join(fields)})"
