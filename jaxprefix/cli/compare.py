"""`jaxprefix compare CONFIG --methods ...`: methods times seeds in one table."""

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any

from jaxprefix.cli.configs import parse_run, result_of
from jaxprefix.cli.options import Parser, real, whole
from jaxprefix.errors import UserError, escaped
from jaxprefix.methods.summaries import summaries

USAGE = "CONFIG --methods A B"
SUMMARY = "methods times seeds in one table; started again, it resumes"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    parser = Parser(
        prog="jaxprefix compare",
        usage="jaxprefix compare CONFIG.py --methods NAME ... [--seeds N] [--budget SHARE] [--field value ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.fill(
            "Methods times seeds on the task of a config: a learning rate for each method, chosen on the validation "
            "rows by equal effort, then the seeds, then a table, its CSV and a plot in the run's folder. Started again "
            "with the same arguments, it goes on. Other arguments override fields of the config, as in `train`.",
            width=100,
        ),
        epilog="Methods:\n" + "\n".join(f"  {name:<20}{summary}" for name, summary in summaries().items()),
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a Python file that defines config()")
    parser.add_argument(
        "--methods",
        nargs="+",
        required=True,
        metavar="NAME",
        help="names of methods (below), or Python files whose methods() returns a tuple of jaxprefix.Entry",
    )
    parser.add_argument(
        "--seeds", type=whole(1), default=5, help="runs of each method, from the config's seed + 1 on (5)"
    )
    parser.add_argument(
        "--budget",
        type=real(0, 1, above=True),
        default=0.02,
        help="share of the backbone's parameters that methods train (0.02)",
    )
    parser.add_argument(
        "--rates-scale",
        type=real(0, above=True),
        nargs="+",
        metavar="FACTOR",
        help="the learning rates to try, as factors of each method's usual one (0.3 1 3 10)",
    )
    parser.add_argument(
        "--reference", help="the method that differences are taken from (p_tuning_v2, or the first method)"
    )
    options, fields = parser.parse_known_args(args)
    from jaxprefix.comparison import FACTORS, Entry, compare

    config = parse_run([options.config, *fields], "jaxprefix compare")
    methods: list[Any] = []
    for name in options.methods:
        found = result_of(name, "methods", "file of methods") if name.endswith(".py") else (name,)
        if name.endswith(".py") and not all(isinstance(entry, Entry) for entry in found):
            raise UserError(f"methods() in {name} must return a tuple of jaxprefix.Entry; correct the file.")
        methods += found
    result = compare(
        config,
        methods,
        seeds=options.seeds,
        budget=options.budget,
        rates=options.rates_scale or FACTORS,
        reference=options.reference,
    )
    print(escaped(result.text, keep="\n"))
    return 0
