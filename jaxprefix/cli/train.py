"""`jaxprefix train CONFIG`: one run."""

from collections.abc import Sequence

from jaxprefix.cli.configs import check_config, parse_run
from jaxprefix.distributed.launch import FLAGS, take_launch

USAGE = "CONFIG [--field value]"
SUMMARY = "tune a frozen backbone; started again, it resumes"


def run(args: Sequence[str]) -> int:
    launch, rest = take_launch(args)
    check_config(rest, "jaxprefix train", FLAGS)
    from jaxprefix.distributed.processes import distributed_session

    with distributed_session(launch):
        run = parse_run(rest, "jaxprefix train", FLAGS)
        from jaxprefix.training.loop import train

        train(run)
    return 0
