"""`jaxprefix gates ADAPTER`: the gates of a finished run as a table, and the prefix that they leave as a config
line."""

from collections.abc import Sequence

from jaxprefix.cli.options import Parser, real, whole
from jaxprefix.errors import escaped

USAGE = "ADAPTER [--keep 0.65]"
SUMMARY = "the gates of a finished run, and the prefix that they leave"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status."""
    parser = Parser(
        prog="jaxprefix gates",
        description="The gates of a finished run of AdaptivePrefix, averaged over a split, and the P-Tuning v2 that "
        "keeps the virtual tokens whose gates are open.",
    )
    parser.add_argument("adapter", help="the adapter folder of the run")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument(
        "--keep", type=real(0, 1, above=True), default=0.65, help="share of the virtual tokens that remain"
    )
    chosen.add_argument("--tau", type=real(0, 1), help="least gate of those that remain, in parts of the largest")
    parser.add_argument("--plot", help="a file for a heat map (.png, .pdf, .svg); needs the extra plots")
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument("--batch-size", type=whole(1), default=32)
    options = parser.parse_args(args)
    from rich.console import Console

    from jaxprefix.adapters.adapter import load_adapter
    from jaxprefix.inspection.gates import read_gates
    from jaxprefix.typed_json import expression

    adapter = load_adapter(options.adapter, backbone=options.backbone)
    gates = read_gates(adapter, options.split, batch_size=options.batch_size)
    console, pattern = Console(), gates.pattern(options.keep, tau=options.tau)
    console.print(gates.table(options.keep, tau=options.tau))
    console.print(
        f"over {gates.rows:,} rows of {options.split}; {pattern.kept.sum()} of {gates.present.sum()} virtual tokens "
        f"have a gate of at least {pattern.tau:.3f} of the largest; trained anew with these:"
    )
    print(f"method={escaped(expression(gates.method(options.keep, tau=options.tau), 'jp.'))},")
    if options.plot:
        gates.plot(options.plot)
    return 0
