"""A plan and a search as tables on the terminal."""

from collections.abc import Sequence
from typing import Any

from jaxprefix.analysis.estimate import CAVEAT
from jaxprefix.errors import escaped
from jaxprefix.planning.plan import Plan, Step, traffic
from jaxprefix.planning.search import Found

GIB, MIB = 2**30, 2**20
LABELS = {
    "frozen": "frozen weights",
    "trainable": "trainable leaves",
    "optimizer": "optimizer state",
    "batch": "batch",
    "activations": "activations and temporaries",
    "padding": "padding of layouts",
    "program": "program",
}
_MEANING = {
    "gradients": "gradients of trainable leaves",
    "frozen gradients": "gradients of FROZEN leaves",
    "weights": "frozen weights",
    "state": "trainable leaves, optimizer",
    "activations": "activations",
    "numbers": "sums of losses and norms",
}


def print_plan(plan: Plan, console: Any) -> None:
    """Prints facts, memory, products, collectives and the estimate."""
    from rich.table import Table
    from rich.text import Text

    facts = Table(show_header=False, box=None, pad_edge=False)
    facts.add_column(style="bold")
    facts.add_column(overflow="fold")
    for name, value in _facts(plan).items():
        facts.add_row(name, value if isinstance(value, Text) else Text(escaped(value, keep="\n")))
    console.print(facts)
    console.print()
    console.print(_memory(plan))
    if plan.train.moved:
        console.print()
        console.print(_traffic(plan))
    for problem in plan.problems:
        console.print()
        console.print(Text.assemble(("error:", "bold red"), f" {escaped(problem)}"))


def _facts(plan: Plan) -> dict[str, Any]:
    shapes, run, topology = plan.shapes, plan.shapes.run, plan.topology
    place = f"{plan.devices} devices of the present backend"
    if topology is not None:
        place = (
            f"{topology}: {topology.chips} chips of {topology.chip.name}, {'x'.join(map(str, topology.shape))}"
            f"{f' in each of {topology.slices} slices' if topology.slices > 1 else ''}, {plan.devices} devices"
        )
    mesh = ", ".join(f"{axis} {size}" for axis, size in shapes.mesh.shape.items())
    found = {
        "topology": place,
        "backbone": f"{run.backbone if isinstance(run.backbone, str) else 'new'} ({shapes.source}), {run.precision}"
        + (f", {run.quantize}" if run.quantize else ""),
        "method": f"{type(run.method).__name__}, {type(shapes.model.head).__name__}",
        "mesh": mesh,
        "batch": f"{run.batch_size} rows of {shapes.tokens} tokens"
        + (f" in {run.accumulate} parts" if run.accumulate > 1 else "")
        + f", remat {run.remat}",
        "fits": _fits(plan),
    }
    if plan.train.flops is not None:
        flops = plan.train.flops * plan.devices
        found["products"] = (
            f"{flops / 1e12:,.3g} TFLOP a step, {flops / plan.tokens_per_step / 1e9:,.3g} GFLOP a token, "
            f"{flops / plan.least.total:.3f} of the least ({plan.least.words})"
        )
    if plan.train.moved:
        summed, own = plan.gradients
        found["gradients"] = f"{summed:,} scalars summed over rows, {own:,} trainable ones on a device"
    time, share = plan.train.time, plan.utilisation
    if time is not None:
        of_peak = "" if share is None else f", {100 * share:.1f} % of peak"
        found["step"] = (
            f"{1e3 * time.seconds:,.1f} ms (operations {1e3 * time.operations:,.1f}, collectives waited for "
            f"{1e3 * time.waiting:,.1f}, beside operations {1e3 * time.hidden:,.1f}), "
            f"{plan.tokens_per_second:,.0f} tokens/s{of_peak}; {CAVEAT}"
        )
    found["compiled"] = " and ".join(f"{step.compile_seconds:.0f} s" for step in plan.steps)
    return found


def _fits(plan: Plan) -> Any:
    from rich.text import Text

    if plan.fits is None:
        return Text("not known: the present backend does not say how much memory a device has")
    largest, capacity = plan.largest, plan.capacity
    sizes = free = ""
    if largest is not None and capacity is not None:
        sizes = f"{gib(largest)} GiB of {gib(capacity)} GiB that a program may use"
        free = f", {gib(capacity - largest)} GiB free"
    if plan.fits:
        return Text.assemble(("yes", "green"), f": {sizes}{free}")
    refusals = [escaped(step.refusal, keep="\n") for step in plan.steps if step.refusal]
    return Text.assemble(
        ("no", "red"), f": {sizes}{'; ' if sizes and refusals else ''}{refusals[0] if refusals else ''}"
    )


def gib(size: float) -> str:
    """Bytes as GiB."""
    return f"{size / GIB:,.2f}"


def _memory(plan: Plan) -> Any:
    from rich.table import Table

    table = Table("MiB per device", "training", "evaluation", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, label in LABELS.items():
        table.add_row(label, *(_mib(step, kind) for step in (plan.train, plan.evaluate)))
    table.add_row("in all", *(_mib(step, "total") for step in (plan.train, plan.evaluate)))
    return table


def _mib(step: Step | None, kind: str) -> str:
    return "" if step is None or step.memory is None else f"{getattr(step.memory, kind) / MIB:,.1f}"


def _traffic(plan: Plan) -> Any:
    from rich.table import Table

    names = ("what a step moves", "collective", "over", "times", "MiB put in", "MiB sent", "")
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns[3:6]:
        column.justify = "right"
    for row in traffic(plan.train.moved):
        if row["sent"] >= 2**10 or row["what"] != "numbers":
            table.add_row(
                *(_MEANING[row["what"]], row["kind"], " x ".join(row["axes"]) or "?", f"{row['times']:,}"),
                *(f"{row[name] / MIB:,.2f}" for name in ("bytes", "sent")),
                "beside operations" if row["hidden"] else "waited for",
            )
    return table


def print_search(found: Sequence[Found], console: Any) -> None:
    """Prints candidates in their order."""
    from rich.table import Table
    from rich.text import Text

    table = Table("candidate", "GiB per device", "fits", "ms a step", "tokens/s", "of peak", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in found:
        plan = one.plan
        time, share = plan.train.time, plan.utilisation
        table.add_row(
            Text(escaped(one.changes)),
            "" if plan.largest is None else gib(plan.largest),
            "yes" if plan.fits else "no",
            "" if time is None else f"{1e3 * time.seconds:,.1f}",
            "" if time is None else f"{plan.tokens_per_second:,.0f}",
            "" if share is None else f"{100 * share:.1f} %",
        )
    console.print(table)
    console.print(f"Times are {CAVEAT}.", highlight=False)
