"""`jaxprefix import FOLDER --out ADAPTER`: an adapter of another library as one of ours."""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprefix.errors import UserError

USAGE = "FOLDER --out ADAPTER"
SUMMARY = "an adapter of PEFT, P-Tuning v2 or the adapters library as one of ours"
FORMATS = ("peft", "p-tuning-v2", "adapters")


def run(args: Sequence[str]) -> int:
    """`jaxprefix import FOLDER --out ADAPTER`: prints the adapter's folder."""
    parser = argparse.ArgumentParser(
        prog="jaxprefix import", description="An adapter that another library trained as an adapter folder of ours."
    )
    parser.add_argument("folder", help="the folder that the other library wrote")
    parser.add_argument("--out", required=True, help="where to write the adapter folder")
    parser.add_argument("--backbone", help="folder or hub name of the model that was tuned, if the folder names none")
    parser.add_argument("--format", choices=FORMATS, help="whose folder it is, if the files do not tell")
    parser.add_argument("--labels", nargs="+", help="names of the labels in the order of the logits")
    parser.add_argument("--kind", choices=("classification", "tagging"), help="what a P-Tuning v2 classifier reads")
    parser.add_argument("--text", help="column of the text, for rows that are JSON objects or files (text)")
    parser.add_argument("--text-pair", help="column of the second text, where the adapter classifies pairs")
    options = parser.parse_args(args)
    from jaxprefix.exchange.adapters_library import import_adapters
    from jaxprefix.exchange.p_tuning_v2 import import_p_tuning_v2
    from jaxprefix.exchange.peft import import_peft

    found = options.format or guess_format(Path(options.folder).expanduser())
    common = {"backbone": options.backbone, "labels": options.labels}
    if found == "p-tuning-v2":
        if options.backbone is None:
            raise UserError("a P-Tuning v2 checkpoint does not name its backbone; give --backbone.")
        adapter = import_p_tuning_v2(options.folder, kind=options.kind, **common)
    else:
        adapter = (import_peft if found == "peft" else import_adapters)(options.folder, **common)
    columns = {"text": options.text, "text_pair": options.text_pair}
    print(_reading(adapter, {field: column for field, column in columns.items() if column}).save(options.out))
    return 0


def _reading(adapter: Any, columns: dict[str, str]) -> Any:
    """The adapter with the columns that its task reads."""
    task = adapter.run.task
    for field in columns:
        if field not in task.text_fields:
            option = f"--{field.replace('_', '-')}"
            raise UserError(f"{option} is a column that {type(task).__name__} does not read; remove it.")
    return dataclasses.replace(adapter, run=dataclasses.replace(adapter.run, task=dataclasses.replace(task, **columns)))


def guess_format(folder: Path) -> str:
    """Whose folder it is, by the names and settings in it.

    Raises:
      UserError: nothing there tells.
    """
    config = folder / "adapter_config.json"
    try:
        settings = json.loads(config.read_bytes()) if config.is_file() else {}
    except ValueError as error:
        raise UserError(f"{config} is damaged ({error}); copy it again.") from error
    if isinstance(settings, dict) and "peft_type" in settings:
        return "peft"
    if isinstance(settings, dict) and isinstance(settings.get("config"), dict):
        return "adapters"
    if any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        return "p-tuning-v2"
    raise UserError(
        f"{folder} holds neither an adapter_config.json of PEFT or the adapters library nor a P-Tuning v2 checkpoint; "
        f"give such a folder, or say --format ({', '.join(FORMATS)})."
    )
