"""`jaxprefix describe CONFIG`: what a run would train."""

from collections.abc import Sequence

from jaxprefix.cli.configs import parse_run

USAGE = "CONFIG"
SUMMARY = "backbone, method, parameters, attention"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    run = parse_run(args, "jaxprefix describe")
    from jaxprefix.inspection import describe

    describe(run)
    return 0
