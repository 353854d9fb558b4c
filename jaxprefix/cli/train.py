"""`jaxprefix train CONFIG`: one run."""

import signal
from collections.abc import Sequence

from jaxprefix.cli.configs import check_config, parse_run
from jaxprefix.cli.launch import FLAGS, take_launch
from jaxprefix.signals import exit_code

USAGE = "CONFIG [--field value]"
SUMMARY = "tune a frozen backbone; started again, it resumes"


def run(args: Sequence[str]) -> int:
    launch, rest = take_launch(args)
    check_config(rest, "jaxprefix train", FLAGS)
    from jaxprefix.distributed.processes import distributed_session

    with distributed_session(launch):
        run = parse_run(rest, "jaxprefix train", FLAGS)
        from jaxprefix.training.loop import train

        try:
            stopped = train(run).signal
        except KeyboardInterrupt as error:
            if not error.args:
                raise
            stopped = signal.SIGINT  # the other processes are met before this one ends
    return 0 if stopped is None else exit_code(stopped)
