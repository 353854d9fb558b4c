"""The options of a launch of several processes, which `train` has beside a run's fields."""

from collections.abc import Sequence

from jaxprefix.cli.options import Parser, whole
from jaxprefix.distributed.launch import Launch

FLAGS = " [--distributed auto|on|off] [--coordinator HOST:PORT --processes N --process I]"


def take_launch(args: Sequence[str]) -> tuple[Launch, list[str]]:
    """The `Launch` that arguments of a command line name, and the arguments that are left; without JAX."""
    parser = Parser(prog="jaxprefix train", add_help=False, allow_abbrev=False)
    parser.add_argument("--distributed", dest="mode", choices=("auto", "on", "off"), default="auto")
    parser.add_argument("--coordinator", metavar="HOST:PORT")
    parser.add_argument("--processes", type=whole(1))
    parser.add_argument("--process", type=whole(0))
    options, rest = parser.parse_known_args(args)
    return Launch(**vars(options)), rest
