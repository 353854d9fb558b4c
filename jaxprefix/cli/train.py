"""`jaxprefix train CONFIG`: one run."""

from collections.abc import Sequence

from jaxprefix.cli.configs import parse_run

USAGE = "CONFIG [--field value]"
SUMMARY = "tune a frozen backbone; started again, it resumes"


def run(args: Sequence[str]) -> int:
    from jaxprefix.distributed.processes import FLAGS, distributed_session, take_launch

    launch, rest = take_launch(args)
    with distributed_session(launch):
        run = parse_run(rest, "jaxprefix train", FLAGS)
        from jaxprefix.training.loop import train

        train(run)
    return 0
