"""`jaxprefix predict ADAPTER`: labels and scores of texts."""

from collections.abc import Sequence
from typing import Any

from jaxprefix.cli.options import Parser, whole
from jaxprefix.cli.rows import add_rows, check_out, rows_of, write_answers
from jaxprefix.errors import UserError

USAGE = "ADAPTER [TEXT ...]"
SUMMARY = "labels and scores, one JSON object per line"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    parser = Parser(prog="jaxprefix predict", description="Text in, labels and scores out, one JSON object per line.")
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    add_rows(parser, "texts", "text")
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument(
        "--beside",
        action="append",
        metavar="ADAPTER",
        help="a further adapter of the same backbone, once for each; every row is then a JSON object whose field "
        "`adapter` names the folder of its own",
    )
    parser.add_argument("--batch-size", type=whole(1), default=32)
    options = parser.parse_intermixed_args(args)
    check_out(options.out)
    rows = rows_of("texts", options)
    from jaxprefix.adapters.adapter import load_adapter
    from jaxprefix.serving.bank import load_adapters

    answer: Any
    if options.beside:
        folders = {folder: folder for folder in (options.adapter, *options.beside)}
        bank = load_adapters(folders, backbone=options.backbone)
        answer = lambda rows, **sizes: bank(*_by_adapter(rows), **sizes)  # noqa: E731
    else:
        answer = load_adapter(options.adapter, backbone=options.backbone).predict
    write_answers(answer(rows, batch_size=options.batch_size), options.out)
    return 0


def _by_adapter(rows: list[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows without their field `adapter`, and what it said."""
    for row in rows:
        if not isinstance(row, dict) or "adapter" not in row:
            raise UserError(f"the row {str(row)[:60]!r} names no adapter; give it the field 'adapter'.")
    return [{key: value for key, value in row.items() if key != "adapter"} for row in rows], [
        r["adapter"] for r in rows
    ]
