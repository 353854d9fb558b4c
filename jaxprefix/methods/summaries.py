"""The names of methods with their summaries, for a command line's help: read from the source of the classes, since to
import them is to import JAX."""

import ast
from pathlib import Path
from typing import Any

from jaxprefix.methods import LISTED

SUMS = {
    "inducer_lora": "inducers and LoRA at once (Chen et al. 2022)",
    "inducer_adapter": "inducers and a parallel adapter at once",
    "prefix_lora": "P-Tuning v2 and LoRA at once",
    "mam": "a short prefix and a scaled adapter beside the MLP (He et al. 2022)",
}
"""The sums of methods that comparisons know beside the methods themselves."""


def summaries() -> dict[str, str]:
    """By name, what every method is that says its usual rate, and every sum."""
    found = {}
    for name, module in LISTED.items():
        said = _said(Path(__file__).with_name(f"{module}.py"), name)
        if said.get("usual_rate") is not None:
            found[said["method_name"]] = said["summary"]
    return found | SUMS


def _said(file: Path, name: str) -> dict[str, Any]:
    """The constants in the body of a class."""
    nodes = ast.parse(file.read_text("utf-8")).body
    cls = next(node for node in nodes if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        node.target.id: node.value.value
        for node in cls.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant)
    }
