"""What an adapter folder holds, as a table, without its backbone."""

from pathlib import Path
from typing import Any

from jaxprefix.checkpoints.adapter import AdapterFiles, read_adapter
from jaxprefix.errors import escaped
from jaxprefix.inspection.describe_report import print_report
from jaxprefix.training.config import Run
from jaxprefix.trees import count, flatten
from jaxprefix.typed_json import expression, from_json


def describe_adapter(folder: str | Path, console: Any = None) -> None:
    """Prints backbone, method, task, labels, rows and what is said of them, metrics and leaves of an adapter folder.

    Args:
      folder: the adapter folder of a finished run.
      console: a `rich` console; None prints to standard output.

    Raises:
      UserError: no adapter folder, or a damaged one.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    files = read_adapter(folder)
    console = Console() if console is None else console
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(folder, files).items():
        table.add_row(Text(escaped(name)), Text(escaped(value)))
    console.print(table)
    if files.report is not None:
        console.print()
        print_report(files.report, console)
    shapes = Table("leaf", "shape", "dtype", box=None, pad_edge=False)
    for path, leaf in _leaves(files).items():
        shapes.add_row(Text(escaped(path)), "x".join(map(str, leaf.shape)) or "scalar", str(leaf.dtype))
    console.print()
    console.print(shapes)


def describe_adapter_json(folder: str | Path) -> dict[str, Any]:
    """What `describe_adapter` prints, as JSON, with the report of the rows under `data`, None where there is none."""
    files = read_adapter(folder)
    leaves = [
        {"path": path, "shape": list(leaf.shape), "dtype": str(leaf.dtype)} for path, leaf in _leaves(files).items()
    ]
    facts = {**_facts(folder, files), "labels": list(files.facts.get("labels", ()))}
    return {**facts, "metrics": files.metrics, "data": files.report, "leaves": leaves}


def _leaves(files: AdapterFiles) -> dict[str, Any]:
    return flatten({"trainable": files.trainable, "initialized": files.initialized})


def _facts(folder: str | Path, files: AdapterFiles) -> dict[str, str]:
    run = from_json(files.config_json, Run)
    about = files.backbone
    size = f", {about['parameters']:,} parameters" if isinstance(about.get("parameters"), int) else ""
    return {
        "adapter": str(folder),
        "written by": f"jaxprefix {files.version}",
        "backbone": f"{about.get('name')}: {about.get('architecture')}{size}",
        "method": expression(run.method),
        "task": expression(run.task),
        "head": expression(run.task.default_head() if run.head is None else run.head),
        "labels": ", ".join(files.facts.get("labels", ())) or "none",
        "trained": f"{count(files.trainable):,} parameters",
        **{f"rows, {split}": str(rows.get("name")) for split, rows in (files.data or {}).items()},
        **{f"metrics, {split}": _numbers(found) for split, found in files.metrics.items()},
    }


def _numbers(found: Any) -> str:
    if not isinstance(found, dict):
        return str(found)
    shown = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in found.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
