"""`jaxprefix import FOLDER --out ADAPTER`: an adapter of another library, or a whole classifier, as one of ours."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprefix.cli.options import Parser
from jaxprefix.errors import UserError, escaped
from jaxprefix.paths import check_entries, parse_json

USAGE = "FOLDER --out ADAPTER"
SUMMARY = "an adapter of PEFT, P-Tuning v2 or the adapters library, or a classifier of transformers, as one of ours"
FORMATS = ("peft", "p-tuning-v2", "adapters", "transformers")
TYPED = ("peft", "transformers")  # those that have transformers' problem_type


def run(args: Sequence[str]) -> int:
    """`jaxprefix import FOLDER --out ADAPTER`: prints the adapter's folder."""
    parser = Parser(
        prog="jaxprefix import",
        description="An adapter that another library trained, or a whole sequence classifier of transformers, as an "
        "adapter folder of ours.",
    )
    parser.add_argument("folder", help="the folder that the other library wrote")
    parser.add_argument("--out", required=True, help="where to write the adapter folder")
    parser.add_argument("--backbone", help="folder or hub name of the model that was tuned, if the folder names none")
    parser.add_argument("--tokenizer", help="folder or hub name of the tokenizer, if the model's folder has none")
    parser.add_argument("--format", choices=FORMATS, help="whose folder it is, if the files do not tell")
    parser.add_argument(
        "--problem-type",
        help="what a sequence classifier of PEFT or transformers answers, if no config.json tells: regression, "
        "single_label_classification or multi_label_classification",
    )
    parser.add_argument("--labels", nargs="+", help="names of the labels in the order of the logits")
    parser.add_argument("--kind", choices=("classification", "tagging"), help="what a P-Tuning v2 classifier reads")
    parser.add_argument("--text", help="column of the text, for rows that are JSON objects or files (text)")
    parser.add_argument("--text-pair", help="column of the second text, where the adapter classifies pairs")
    options = parser.parse_args(args)
    from jaxprefix.exchange.adapters_library import import_adapters
    from jaxprefix.exchange.p_tuning_v2 import import_p_tuning_v2
    from jaxprefix.exchange.peft import import_peft
    from jaxprefix.exchange.transformers_classifier import import_transformers

    check_entries(Path(options.folder).expanduser())
    found = options.format or guess_format(Path(options.folder).expanduser())
    named = {"labels": options.labels, "tokenizer": options.tokenizer}
    common = {"backbone": options.backbone, **named}
    if options.problem_type is not None and found not in TYPED:
        raise UserError(f"--problem-type is for folders of {' and '.join(TYPED)}; remove it.")
    if found == "p-tuning-v2":
        if options.backbone is None:
            raise UserError("a P-Tuning v2 checkpoint does not name its backbone; give --backbone.")
        adapter = import_p_tuning_v2(options.folder, kind=options.kind, **common)
    elif found == "transformers":
        if options.backbone is not None:
            raise UserError("a whole classifier is its own backbone; remove --backbone.")
        adapter = import_transformers(options.folder, problem_type=options.problem_type, **named)
    elif found == "peft":
        adapter = import_peft(options.folder, problem_type=options.problem_type, **common)
    else:
        adapter = import_adapters(options.folder, **common)
    columns = {"text": options.text, "text_pair": options.text_pair}
    given = {field: column for field, column in columns.items() if column}
    print(escaped(str(_reading(adapter, given).save(options.out))))
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
    settings = _settings(folder / "adapter_config.json")
    if "peft_type" in settings:
        return "peft"
    if isinstance(settings.get("config"), dict):
        return "adapters"
    if _is_whole_classifier(folder):
        return "transformers"
    if any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin")):
        return "p-tuning-v2"
    raise UserError(
        f"{folder} holds neither an adapter_config.json of PEFT or the adapters library, nor a P-Tuning v2 checkpoint, "
        f"nor a sequence classifier of transformers; give such a folder, or say --format ({', '.join(FORMATS)})."
    )


def _is_whole_classifier(folder: Path) -> bool:
    """Whether a folder holds a sequence classifier of transformers, and no checkpoint of P-Tuning v2."""
    from jaxprefix.exchange.p_tuning_v2 import is_checkpoint
    from jaxprefix.exchange.transformers_classifier import is_classifier
    from jaxprefix.hf.headers import has_tensors, read_index

    settings = _settings(folder / "config.json")
    return is_classifier(settings) and not is_checkpoint(settings, read_index(folder) if has_tensors(folder) else ())


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = parse_json(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); copy it again.") from error
    return found if isinstance(found, dict) else {}
