"""The model card of an adapter, in Markdown, from the run's configuration alone."""

import json
import re
from collections.abc import Sequence
from typing import Any

from jaxprefix.data.report import Report, report_table
from jaxprefix.errors import escaped


def model_card(
    folder: str,
    config: Any,
    backbone: dict[str, Any],
    metrics: dict[str, Any],
    labels: list[str] | None,
    trained: int,
    size: int,
    report: Report | None = None,
) -> str:
    """Text of the card.

    Args:
      folder: name of the adapter's folder.
      config: the configuration as parsed type-tagged JSON.
      backbone: its identity; "name", "architecture", "digest" and "parameters" are shown where they are there.
      metrics: numbers are shown, those of a split with its name.
      labels: names of the labels.
      trained: number of trained parameters.
      size: bytes of the file of tensors.
      report: what there is to say of the rows.
    """
    fields = config if isinstance(config, dict) else {}
    method, name = fields.get("method"), backbone.get("name", "its backbone")
    how = method.get("type") if isinstance(method, dict) else None
    total = backbone.get("parameters")
    share = f", {100 * trained / total:.3g} % of the backbone's {total:,}" if total else ""
    identity = [
        (key, str(backbone[key])) for key in ("name", "architecture", "parameters", "digest") if key in backbone
    ]
    data = [(key, item) for key in ("data", "task") for key, item in _rows(fields.get(key), key)]
    measured = [(name, f"{item:.6g}") for name, item in _numbers(metrics) if _is_number(item)]
    tuned = f", tuned with {_text(str(how))}" if how else ""
    parts = [
        f"# {_text(folder)}",
        f"An adapter for the frozen model {_code(str(name))}{tuned} by jaxprefix.\n"
        f"Trained parameters: {trained:,}{share} ({size / 1e6:.3g} MB).",
        _table("Method", ("field", "value"), [("type", how), *_rows(method, "")] if how else []),
        _table("Backbone", ("field", "value"), identity),
        _table("Data", ("field", "value"), data),
        *([] if report is None else _rows_reported(report)),
        "## Labels\n\n" + ", ".join(_code(label) for label in labels) if labels else "",
        _table("Metrics", ("metric", "value"), measured),
        "## Use\n\n```python\nimport jaxprefix as jp\n\n"
        f'adapter = jp.load_adapter({folder!r})\nprint(adapter.predict(["a text"]))\n```',
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(value: Any, path: str) -> list[tuple[str, str]]:
    """Fields of a configuration value with their dotted paths; tuples and lists in one line."""
    if value is None:
        return []
    if isinstance(value, dict) and value.get("type") == "tuple":
        value = value["items"]
    if isinstance(value, dict) and value.get("type") == "float":
        value = value["value"]
    if not isinstance(value, dict):
        return [(path, value if isinstance(value, str) else json.dumps(value))]
    inner = [(f"{path}.{key}" if path else key, item) for key, item in value.items() if key != "type"]
    return [row for key, item in inner for row in _rows(item, key)]


def _numbers(metrics: dict[str, Any]) -> list[tuple[str, Any]]:
    """Metrics with their names, those of a split behind its own."""
    found: list[tuple[str, Any]] = []
    for key, item in metrics.items():
        found += [(f"{key}/{name}", value) for name, value in item.items()] if isinstance(item, dict) else [(key, item)]
    return found


def _rows_reported(report: Report) -> list[str]:
    table = report_table(report)
    notes = "\n".join(f"- {_text(note)}" for note in (*table.warnings, *table.notes))
    return [_table("Rows", table.head, table.rows, right=True), notes]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], right: bool = False) -> str:
    """A table under a title; `right` aligns all columns but the first on the right."""
    if not rows:
        return ""
    lines = [head, ("---", *["---:" if right else "---"] * (len(head) - 1)), *rows]
    cells = [[_text(str(cell)) for cell in line] for line in lines]
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool | str | list | dict) and hasattr(value, "__float__")


def _text(text: str) -> str:
    """Text that is not ours as Markdown that shows it: no heading, link, HTML or cell begins or ends in it."""
    text = re.sub(r"([\\`*<>&|~]|\](?=[(\[:]))", r"\\\1", escaped(text))
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _code(text: str) -> str:
    """Text that is not ours as a code span, whose fence is longer than any in it."""
    text = escaped(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if text[:1] in ("", "`") or text[-1:] == "`" else ""
    return f"{fence}{pad}{text}{pad}{fence}"
