"""The gates by name; a module a gate, imported when it is asked for."""

import importlib
from pathlib import Path

from tests.fuzzing.gate import Gate

GATES = {
    "rows": "rows.RowsGate",
    "batches": "batches.BatchesGate",
    "trees": "trees.TreesGate",
    "values": "values.ValuesGate",
    "configs": "configs.ConfigsGate",
    "folders": "folders.FoldersGate",
    "options": "options.OptionsGate",
    "fields": "fields.FieldsGate",
    "commands": "commands.CommandsGate",
}


def make_gate(name: str, folder: Path) -> Gate:
    """A gate, which makes what its trials share in the folder."""
    module, cls = GATES[name].split(".")
    return getattr(importlib.import_module(f"tests.fuzzing.{module}"), cls)(folder)
