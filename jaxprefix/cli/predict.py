"""`jaxprefix predict ADAPTER`: labels and scores of texts."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from jaxprefix.cli.configs import row_of
from jaxprefix.errors import UserError

USAGE = "ADAPTER [TEXT ...]"
SUMMARY = "labels and scores, one JSON object per line"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="jaxprefix predict", description="Text in, labels and scores out, one JSON object per line."
    )
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    parser.add_argument(
        "texts",
        nargs="*",
        help="texts; without any they are read from standard input, one per line: plain text, or a JSON object with "
        "the run's columns",
    )
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument(
        "--beside",
        action="append",
        metavar="ADAPTER",
        help="a further adapter of the same backbone, once for each; every row is then a JSON object whose field "
        "`adapter` names the folder of its own",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_intermixed_args(args)
    from jaxprefix.adapters.adapter import load_adapter
    from jaxprefix.serving.bank import load_adapters

    answer: Any
    if options.beside:
        folders = {folder: folder for folder in (options.adapter, *options.beside)}
        bank = load_adapters(folders, backbone=options.backbone)
        answer = lambda rows, **sizes: bank(*_by_adapter(rows), **sizes)  # noqa: E731
    else:
        answer = load_adapter(options.adapter, backbone=options.backbone).predict
    lines = options.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    rows = [row_of(line) for line in lines]
    for found in answer(rows, batch_size=options.batch_size):
        print(json.dumps(found, ensure_ascii=False))
    return 0


def _by_adapter(rows: list[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows without their field `adapter`, and what it said."""
    for row in rows:
        if not isinstance(row, dict) or "adapter" not in row:
            raise UserError(f"the row {str(row)[:60]!r} names no adapter; give it the field 'adapter'.")
    return [{key: value for key, value in row.items() if key != "adapter"} for row in rows], [
        r["adapter"] for r in rows
    ]
