"""`jaxprefix evaluate ADAPTER`: metrics on a split."""

import json
from collections.abc import Sequence

from jaxprefix.cli.options import Parser, whole

USAGE = "ADAPTER [--split test]"
SUMMARY = "the metrics of a finished run's adapter"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    parser = Parser(prog="jaxprefix evaluate", description="The metrics of an adapter on a split.")
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--file", help="a file with the run's columns, or a folder of such, instead of a split")
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument("--batch-size", type=whole(1), default=32)
    options = parser.parse_args(args)
    from jaxprefix.adapters.adapter import load_adapter

    adapter = load_adapter(options.adapter, backbone=options.backbone)
    metrics = adapter.evaluate(split=options.split, file=options.file, batch_size=options.batch_size)
    print(json.dumps(metrics))
    return 0
