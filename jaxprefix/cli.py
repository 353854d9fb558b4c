"""The command line: `train`, `evaluate`, `predict`, `describe`, `compare`."""

import argparse
import dataclasses
import difflib
import importlib.util
import json
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprefix.allocator import keep_large_buffers
from jaxprefix.errors import RunFailed, UserError


def load_config(path: str) -> Any:
    """The `Run` that a config file's function `config()` returns.

    Raises:
      UserError: there is no such file, it fails, or it returns something else.
    """
    from jaxprefix.training.config import Run

    run = _result_of(path, "config", "config file")
    if not isinstance(run, Run):
        raise UserError(f"config() in {path} returns a {type(run).__name__}; it must return a jaxprefix.Run.")
    return run


def _result_of(path: str, function: str, kind: str) -> Any:
    """What the function of that name in a Python file returns."""
    file = Path(path)
    if not file.is_file():
        near = sorted(str(found) for found in file.parent.glob("*.py")) if file.parent.is_dir() else []
        known = f"; {file.parent} has {', '.join(near)}" if near else ""
        raise UserError(f"there is no {kind} {path}{known}; name a Python file that defines {function}().")
    spec = importlib.util.spec_from_file_location(f"{function}_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file; name one that defines {function}().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)()
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{path} fails with {type(error).__name__}: {error}{_nearest_field(error)}; correct the file."
        ) from error


def _nearest_field(error: Exception) -> str:
    """For a field that none of our classes has: the one that was probably meant."""
    found = re.search(r"(?:(\w+)\.__init__\(\) )?got an unexpected keyword argument '(\w+)'", str(error))
    if not isinstance(error, TypeError) or found is None:
        return ""
    import jaxprefix

    public = [getattr(jaxprefix, name) for name in jaxprefix.__all__]
    classes = [cls for cls in public if dataclasses.is_dataclass(cls) and found[1] in (None, cls.__name__)]
    fields = {field.name for cls in classes for field in dataclasses.fields(cls)}
    near = difflib.get_close_matches(found[2], fields, n=1)
    return f" (the nearest field is {near[0]!r})" if near else ""


def parse_run(args: Sequence[str], program: str) -> Any:
    """`CONFIG [--field.sub value ...]` as a `Run`: the file's value with fields overridden by name."""
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} CONFIG.py [--field value ...]\n\n{program} CONFIG.py --help lists the fields.")
        raise SystemExit(0 if args else 2)
    import tyro

    run = load_config(args[0])
    return tyro.cli(
        type(run), prog=f"{program} {args[0]}", default=run, args=list(args[1:]), config=(tyro.conf.AvoidSubcommands,)
    )


def _train(args: Sequence[str]) -> int:
    run = parse_run(args, "jaxprefix train")
    from jaxprefix.training.loop import train

    train(run)
    return 0


def _evaluate(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="jaxprefix evaluate", description="The metrics of an adapter on a split.")
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("--file", help="a .jsonl, .csv or .parquet file with the run's columns, instead of a split")
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args(args)
    from jaxprefix.training.adapter import load_adapter

    adapter = load_adapter(options.adapter, backbone=options.backbone)
    metrics = adapter.evaluate(split=options.split, file=options.file, batch_size=options.batch_size)
    print(json.dumps(metrics))
    return 0


def _predict(args: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="jaxprefix predict", description="Text in, labels and scores out, one JSON object per line."
    )
    parser.add_argument("adapter", help="the adapter folder of a finished run")
    parser.add_argument(
        "texts",
        nargs="*",
        help="texts; without any they are read from standard input, one per line: plain text, or a JSON object with "
        "the run's columns",
    )
    parser.add_argument("--backbone", help="where the backbone lies, if not where the run found it")
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args(args)
    from jaxprefix.training.adapter import load_adapter

    adapter = load_adapter(options.adapter, backbone=options.backbone)
    lines = options.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    rows = [_row(line) for line in lines]
    for found in adapter.predict(rows, batch_size=options.batch_size):
        print(json.dumps(found, ensure_ascii=False))
    return 0


def _row(line: str) -> Any:
    if not line.lstrip().startswith("{"):
        return line
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"the line {line[:60]!r} begins like JSON but is not ({error}); correct it.") from error


def _describe(args: Sequence[str]) -> int:
    run = parse_run(args, "jaxprefix describe")
    from jaxprefix.inspection import describe

    describe(run)
    return 0


def _compare(args: Sequence[str]) -> int:
    from jaxprefix.comparison import ENTRIES, FACTORS, Entry, compare

    parser = argparse.ArgumentParser(
        prog="jaxprefix compare",
        usage="jaxprefix compare CONFIG.py --methods NAME ... [--seeds N] [--budget SHARE] [--field value ...]",
        description="Methods times seeds on the task of a config: a learning rate for each method, chosen on the "
        "validation rows by equal effort, then the seeds, then a table, its CSV and a plot in the run's folder. "
        "Started again with the same arguments, it goes on. Other arguments override fields of the config, as in "
        "`train`.",
        epilog=f"Methods: {', '.join(ENTRIES)}.",
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
    parser.add_argument("--seeds", type=int, default=5, help="runs of each method, from the config's seed + 1 on (5)")
    parser.add_argument(
        "--budget", type=float, default=0.02, help="share of the backbone's parameters that methods train (0.02)"
    )
    parser.add_argument(
        "--rates-scale",
        type=float,
        nargs="+",
        default=FACTORS,
        metavar="FACTOR",
        help="the learning rates to try, as factors of each method's usual one (0.3 1 3 10)",
    )
    parser.add_argument(
        "--reference", help="the method that differences are taken from (p_tuning_v2, or the first method)"
    )
    options, fields = parser.parse_known_args(args)
    run = parse_run([options.config, *fields], "jaxprefix compare")
    methods: list[Any] = []
    for name in options.methods:
        found = _result_of(name, "methods", "file of methods") if name.endswith(".py") else (name,)
        if name.endswith(".py") and not all(isinstance(entry, Entry) for entry in found):
            raise UserError(f"methods() in {name} must return a tuple of jaxprefix.Entry; correct the file.")
        methods += found
    result = compare(
        run,
        methods,
        seeds=options.seeds,
        budget=options.budget,
        rates=options.rates_scale,
        reference=options.reference,
    )
    print(result.text)
    return 0


COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "describe": _describe,
    "compare": _compare,
}
USAGE = """usage: jaxprefix COMMAND ...

  train CONFIG [--field value]     tune a frozen encoder; started again, it goes on
  evaluate ADAPTER [--split test]  the metrics of a finished run's adapter
  predict ADAPTER [TEXT ...]       labels and scores, one JSON object per line
  describe CONFIG                  backbone, method, parameters, attention
  compare CONFIG --methods A B     methods times seeds in one table; started again, it goes on

Each command has its own --help.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 1 failed, 2 something to correct in what was given."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if args else 2
    if args[0] not in COMMANDS:
        near = difflib.get_close_matches(args[0], COMMANDS, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        known = ", ".join(COMMANDS)
        print(f"jaxprefix: there is no command {args[0]!r}{hint}; the commands are {known}.", file=sys.stderr)
        return 2
    return guarded(COMMANDS[args[0]], args[1:])


def guarded(command: Any, args: Sequence[str]) -> int:
    """Runs a command with the log on standard error, and turns what a person can correct into one line and a code."""
    keep_large_buffers()
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("jaxprefix").setLevel(logging.INFO)
    try:
        return command(args)
    except (UserError, RunFailed) as error:
        print(f"jaxprefix: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
