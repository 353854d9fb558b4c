"""The command line: its commands, and configs read from files."""

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

    run = result_of(path, "config", "config file")
    if not isinstance(run, Run):
        raise UserError(f"config() in {path} returns a {type(run).__name__}; it must return a jaxprefix.Run.")
    return run


def result_of(path: str, function: str, kind: str) -> Any:
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


def parse_run(args: Sequence[str], program: str, flags: str = "") -> Any:
    """`CONFIG [--field.sub value ...]` as a `Run`: the file's value with fields overridden by name; `flags` are those
    that the program has beside them, for its help."""
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: {program} CONFIG.py [--field value ...]{flags}\n\n{program} CONFIG.py --help lists the fields.")
        raise SystemExit(0 if args else 2)
    import tyro

    run = load_config(args[0])
    options = {"prog": f"{program} {args[0]}", "args": list(args[1:]), "config": (tyro.conf.AvoidSubcommands,)}
    if not isinstance(run.backbone, str):
        return tyro.cli(type(run), default=run, **options)
    # a union of text and a dataclass is no option for tyro while subcommands are avoided: the text alone is
    fields = {field.name: getattr(run, field.name) for field in dataclasses.fields(run)}
    narrowed: list[Any] = [("backbone", str)]
    if run.start is not None:  # an optional value of a base class is none either: its own class is
        narrowed.append(("start", type(run.start), dataclasses.field(default=run.start)))
    named = dataclasses.make_dataclass("Run", narrowed, bases=(type(run),), frozen=True)
    named.__doc__ = type(run).__doc__
    found = tyro.cli(named, default=named(**fields), **options)
    return type(run)(**{name: getattr(found, name) for name in fields})


def _train(args: Sequence[str]) -> int:
    from jaxprefix.training.processes import FLAGS, take_launch, together

    launch, rest = take_launch(args)
    with together(launch):
        run = parse_run(rest, "jaxprefix train", FLAGS)
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
    parser.add_argument(
        "--beside",
        action="append",
        metavar="ADAPTER",
        help="a further adapter of the same backbone, once for each; every row is then a JSON object whose field "
        "`adapter` names the folder of its own",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_intermixed_args(args)
    from jaxprefix.serving.bank import load_adapters
    from jaxprefix.training.adapter import load_adapter

    answer: Any
    if options.beside:
        folders = {folder: folder for folder in (options.adapter, *options.beside)}
        bank = load_adapters(folders, backbone=options.backbone)
        answer = lambda rows, **sizes: bank(*_by_adapter(rows), **sizes)  # noqa: E731
    else:
        answer = load_adapter(options.adapter, backbone=options.backbone).predict
    lines = options.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    rows = [row_of(line) for line in lines]
    for found in answer(rows, batch_size=options.batch_size):
        print(json.dumps(found, ensure_ascii=False))
    return 0


def _by_adapter(rows: list[Any]) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows without their field `adapter`, and what it said."""
    for row in rows:
        if not isinstance(row, dict) or "adapter" not in row:
            raise UserError(f"the row {str(row)[:60]!r} names no adapter; give it the field 'adapter'.")
    return [{key: value for key, value in row.items() if key != "adapter"} for row in rows], [
        r["adapter"] for r in rows
    ]


def row_of(line: str) -> Any:
    """A line of input: plain text, or a JSON object."""
    if not line.lstrip().startswith("{"):
        return line
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(f"the line {line[:60]!r} begins like JSON but is not ({error}); correct it.") from error


def _generate(args: Sequence[str]) -> int:
    from jaxprefix.commands import generate

    return generate.run(args)


def _describe(args: Sequence[str]) -> int:
    run = parse_run(args, "jaxprefix describe")
    from jaxprefix.inspection import describe

    describe(run)
    return 0


def _check(args: Sequence[str]) -> int:
    from jaxprefix.commands import check

    return check.run(args)


def _gates(args: Sequence[str]) -> int:
    from jaxprefix.commands import gates

    return gates.run(args)


def _export(args: Sequence[str]) -> int:
    from jaxprefix.exchange.commands import export_command

    return export_command(args)


def _import(args: Sequence[str]) -> int:
    from jaxprefix.exchange.commands import import_command

    return import_command(args)


def _compare(args: Sequence[str]) -> int:
    from jaxprefix.commands import compare

    return compare.run(args)


def _plan(args: Sequence[str]) -> int:
    from jaxprefix.commands import plan

    return plan.run(args)


COMMANDS = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "generate": _generate,
    "describe": _describe,
    "check": _check,
    "gates": _gates,
    "export": _export,
    "import": _import,
    "compare": _compare,
    "plan": _plan,
}
USAGE = """usage: jaxprefix COMMAND ...

  train CONFIG [--field value]     tune a frozen encoder; started again, it goes on
  evaluate ADAPTER [--split test]  the metrics of a finished run's adapter
  predict ADAPTER [TEXT ...]       labels and scores, one JSON object per line
  generate ADAPTER [PROMPT ...]    texts of a tuned decoder, one JSON object per line
  describe CONFIG                  backbone, method, parameters, attention
  check CONFIG                     whether the model does what it is meant to, before it is trained
  gates ADAPTER [--keep 0.65]      the gates of a finished run, and the prefix that they leave
  export ADAPTER FOLDER            an adapter as a folder of Hugging Face PEFT
  import FOLDER --out ADAPTER      an adapter of PEFT, P-Tuning v2 or the adapters library as one of ours
  compare CONFIG --methods A B     methods times seeds in one table; started again, it goes on
  plan CONFIG --topology v5e-256   whether a run fits a pod, what it computes and moves, without a pod

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
