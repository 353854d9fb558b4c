"""`jaxprefix describe CONFIG`: what a run would train; `jaxprefix describe ADAPTER`: what one left."""

from collections.abc import Sequence
from pathlib import Path

USAGE = "CONFIG | ADAPTER"
SUMMARY = "backbone, method, parameters, attention; of an adapter what it holds"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    if len(args) == 1 and (Path(args[0]).expanduser().is_dir() or "://" in args[0]):
        from jaxprefix.inspection.describe_adapter import describe_adapter

        describe_adapter(args[0])
        return 0
    from jaxprefix.cli.configs import parse_run

    run = parse_run(args, "jaxprefix describe")
    from jaxprefix.inspection import describe

    describe(run)
    return 0
