"""`jaxprefix plan CONFIG --topology v5e-256`: what the compiler can tell of a run on a pod, without one."""

import argparse
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxprefix.cli.options import Parser, real, whole
from jaxprefix.errors import UserError, escaped

HERE = "here"


def _parser() -> Parser:
    parser = Parser(
        prog="jaxprefix plan",
        usage="jaxprefix plan CONFIG.py [--topology NAME] [--mesh SIZES] [--search] [--field value ...]",
        description="Compiles the training and the evaluation step of a config for a pod, from shapes alone, and says "
        "whether they fit, what they compute and what the chips exchange. No weights, data or TPU are needed; for "
        "other topologies than `here` the extra `tpu` is. Other arguments override fields of the config, as in "
        "`train`.",
        epilog="v4-N, v5p-N and tpu7x-N count TensorCores, two to a chip (v5p-128 is 64 chips; on tpu7x each is a "
        "device of its own, on v4 and v5p a chip is one); v5e-N (also v5litepod-N) and v6e-N count chips. Exit code 1: "
        "it does not fit, or gradients of frozen leaves are summed.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a Python file that defines config()")
    parser.add_argument(
        "--topology", default=HERE, help="v5e-16, v5p-128, v4-32, v6e-64, tpu7x-128, 2xv5e-256; or here (the default)"
    )
    parser.add_argument("--slices", type=whole(1), default=1, help="how many such slices, joined by the network (1)")
    parser.add_argument("--mesh", help="data=1,fsdp=16,tp=1 in place of the config's")
    parser.add_argument("--tokens", type=whole(1), help="columns of a batch (the longest of buckets, or max_length)")
    parser.add_argument("--labels", type=whole(1), help="how many labels the task has (what the head says, or 2)")
    parser.add_argument("--search", action="store_true", help="rank meshes, remat and batches per chip by estimate")
    parser.add_argument("--most", type=whole(1), default=12, help="candidates that a search compiles (12)")
    parser.add_argument(
        "--budget", type=real(0), default=1800, help="seconds after which a search begins no other (1800)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    parser.add_argument("--picture", metavar="FILE", help="draw memory per device there (.png, .svg, .pdf)")
    return parser


USAGE = "CONFIG --topology v5e-256"
SUMMARY = "whether a run fits a pod, what it computes and moves, without a pod"


def run(args: Sequence[str]) -> int:
    """The command on its arguments; returns the exit status, 1 where the run does not fit."""
    options, fields = _parser().parse_known_args(args)
    from jaxprefix.analysis.topologies import find_topology, prepare_environment

    here = options.topology == HERE
    topology = None if here else find_topology(options.topology, options.slices)
    if here and (options.search or options.slices != 1):
        raise UserError("--search and --slices are for pods; name one with --topology, such as v5e-16.")
    for name in ("json", "picture"):
        path = getattr(options, name)
        if path and not Path(path).absolute().parent.is_dir():
            raise UserError(f"--{name} is {path}, whose folder does not exist; make it, or name another.")
    if not here:  # both before jax looks for devices: absent ones are compiled for from the CPU
        prepare_environment()
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    from rich.console import Console

    from jaxprefix.cli.configs import parse_run
    from jaxprefix.planning.plan import as_json, plan_run
    from jaxprefix.planning.table import print_plan

    config = parse_run([options.config, *fields], "jaxprefix plan")
    if options.mesh:
        sizes = {"data": 1, "fsdp": 1, "tp": 1, **check_mesh_words(options.mesh)}
        config = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, **sizes))
    console = Console()
    if options.search:
        return _search(config, topology, options, console)
    plan = plan_run(config, topology, tokens=options.tokens, labels=options.labels)
    print_plan(plan, console)
    found = as_json(plan)
    if plan.fits is False:
        found["suggestions"] = _suggestions(plan, options.budget, console)
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.picture:
        _picture([("", plan)], options, found)
    return 1 if plan.fits is False or plan.problems else 0


def check_mesh_words(text: str) -> dict[str, int]:
    """`data=1,fsdp=16,tp=1` as sizes."""
    sizes = {}
    for part in text.split(","):
        name, _, size = part.partition("=")
        if name.strip() not in ("data", "fsdp", "tp") or not size.strip().lstrip("-").isdigit():
            raise UserError(f"--mesh is {text!r}; write it as data=1,fsdp=16,tp=1, one of the sizes may be -1.")
        sizes[name.strip()] = int(size)
    return sizes


def _suggestions(plan: Any, budget: float, console: Any) -> list[dict[str, Any]]:
    from rich.text import Text

    from jaxprefix.planning.search import suggestions
    from jaxprefix.planning.table import gib

    console.print("\nWhat would make it fit:")
    tried = suggestions(plan, budget=budget)
    for one in tried:
        size = "" if one["largest"] is None else f", {gib(one['largest'])} GiB per device"
        console.print(Text(escaped(f"  {one['change']}: {'fits' if one['fits'] else 'does not fit'}{size}")))
    if not any(one["fits"] for one in tried):
        console.print("  nothing that was tried.")
    return tried


def _search(config: Any, topology: Any, options: argparse.Namespace, console: Any) -> int:
    from jaxprefix.planning.plan import as_json
    from jaxprefix.planning.search import search
    from jaxprefix.planning.table import print_search

    sizes = {"tokens": options.tokens, "labels": options.labels, "most": options.most, "budget": options.budget}
    found = search(config, topology, **sizes)
    if not found:
        raise UserError(f"no mesh of {topology} holds the weights and the state of this run; take more chips.")
    print_search(found, console)
    records = [{"changes": one.changes, **as_json(one.plan)} for one in found]
    if options.json:
        Path(options.json).write_text(json.dumps(records, indent=1) + "\n")
    if options.picture:
        _picture([(one.changes, one.plan) for one in found], options, records[0])
    return 0 if found[0].plan.fits else 1


def _picture(plans: list[tuple[str, Any]], options: argparse.Namespace, first: dict[str, Any]) -> None:
    from jaxprefix.planning.picture import draw_plans

    title = f"{first['backbone']}, {first['method']} on {first['topology']}"
    draw_plans(plans, Path(options.picture), title=title)
