"""Time of one update of a population of K members beside K updates of single runs, interleaved in one process.

    python benchmarks/population.py

P-Tuning v2 of the embedded encoder, random tokens. Every round runs some single updates and one of each population, so
that what else the machine does falls on all of them; first updates (compilation) are left out. A ratio of 1 means that
a member costs as much as a run of its own. Members come one after another inside the step (what a CPU gets), or side by
side (what an accelerator gets). Beside them: how much of a single update its matrix products take, which no population
saves, measured as the same products in a loop; and whole runs by `jp.train` and `jp.train_population`, set-up,
evaluation and adapters included, in which the set-up of K - 1 runs is saved.
"""

import argparse
import dataclasses
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from common import busy_seconds, save, versions

from jaxprefix.allocator import keep_large_buffers

keep_large_buffers()  # before jax, as the command line does

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import jaxprefix as jp  # noqa: E402
from jaxprefix.analysis.flops import dot_flops  # noqa: E402
from jaxprefix.distributed.mesh import make_mesh, put_batch  # noqa: E402
from jaxprefix.edits import BUILT_RATES  # noqa: E402
from jaxprefix.population.step import init_population, make_population_step  # noqa: E402
from jaxprefix.training.step import init_state, make_train_step, run_key  # noqa: E402

SCHEDULE = {"steps": 1000, "epoch_steps": 1000}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="*", default=[1, 4, 16], help="sizes K")
    parser.add_argument("--batch", type=int, default=32, help="rows")
    parser.add_argument("--tokens", type=int, default=48, help="of each row")
    parser.add_argument("--length", type=int, default=32, help="virtual tokens of each layer")
    parser.add_argument("--dropout", type=float, default=0.0, help="every rate")
    parser.add_argument("--rounds", type=int, default=8, help="timed updates of each population")
    parser.add_argument("--run-steps", type=int, default=50, help="updates of the whole runs; 0 for none")
    return parser.parse_args()


@dataclasses.dataclass
class Clock:
    """Wall and own CPU seconds of calls, and the cores that others kept busy meanwhile."""

    wall: list[float] = dataclasses.field(default_factory=list)
    cpu: list[float] = dataclasses.field(default_factory=list)
    others: list[float] = dataclasses.field(default_factory=list)

    def time(self, call: Callable[[], Any], times: int = 1) -> None:
        before, busy, started = _own(), busy_seconds(), time.perf_counter()
        for _ in range(times):
            call()
        wall, cpu = time.perf_counter() - started, _own() - before
        self.wall.append(wall / times)
        self.cpu.append(cpu / times)
        if busy is not None:
            self.others.append(max(0.0, busy_seconds() - busy - cpu) / wall)


def _own() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def updates(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Any]], dict[str, dict[str, float]], int]:
    """An update of a single run and of each population as functions, what is known of their programs, and the FLOPs of
    the single one's products."""
    backbone, tree, _ = jp.load_pretrained("tiny-encoder")
    rates = {"hidden_dropout": options.dropout, "attention_dropout": options.dropout}
    backbone = jp.Encoder(dataclasses.replace(backbone.config, **rates))
    model = jp.TunedModel(backbone, jp.PTuningV2(length=options.length), jp.SequenceClassifier(num_labels=4))
    mesh, optimizer = make_mesh(jp.MeshShape(data=1), jax.devices()[:1]), jp.Optimizer(learning_rate=1e-3)
    random, shape = np.random.default_rng(0), (options.batch, options.tokens)
    batch = {
        "input_ids": random.integers(5, backbone.config.vocab, shape, np.int32),
        "attention_mask": np.ones(shape, bool),
        "token_type_ids": np.zeros(shape, np.int32),
        "weight": np.ones(options.batch, np.float32),
        "labels": random.integers(0, 4, options.batch, np.int32),
    }
    placed, scalars = put_batch(batch, mesh), optimizer.rates()
    trainable, frozen = model.init(jax.random.key(0), tree)
    known: dict[str, dict[str, float]] = {}

    def compiled(name: str, step: Any, *args: Any) -> Any:
        started = time.perf_counter()
        program = step.lower(*args).compile()
        temporaries = program.memory_analysis().temp_size_in_bytes / 2**20
        known[name] = {"temporaries_mib": round(temporaries), "compile_seconds": time.perf_counter() - started}
        return program

    state = init_state(model, trainable, optimizer, run_key(0), mesh)
    single = compiled("single", make_train_step(model, optimizer, mesh, **SCHEDULE), state, scalars, frozen, placed)

    def update_single() -> None:
        nonlocal state
        state, metrics = single(state, scalars, frozen, placed)
        metrics["loss"].block_until_ready()

    def population(members: int, vmap_size: int, name: str) -> Callable[[], None]:
        stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
        leaves = jax.tree.map(stack, *(model.init(jax.random.key(seed), tree)[0] for seed in range(members)))
        start = init_population(leaves, optimizer, list(range(members)), mesh)
        many = jax.tree.map(stack, *[scalars] * members)
        step = make_population_step(model, optimizer, mesh, vmap_size=vmap_size, **SCHEDULE)
        now = [start.train, start.active]
        program = compiled(name, step, *now, many, BUILT_RATES, frozen, placed)

        def update() -> None:
            *now[:], metrics = program(*now, many, BUILT_RATES, frozen, placed)
            metrics["loss"].block_until_ready()

        return update

    found: dict[str, Callable[[], Any]] = {"single": update_single}
    for members in options.members:
        for vmap_size in sorted({1, members}):
            name = f"{members} {'side by side' if vmap_size > 1 else 'one after another'}"
            found[name] = population(members, vmap_size, name)
    return found, known, dot_flops(single)


def product_rate(options: argparse.Namespace) -> Callable[[], Any]:
    """The products of an MLP with frozen matrices alone, 2 * 2 * rows * width * 4 * width FLOPs."""
    rows, width = options.batch * options.tokens, 128
    x, up, down = jnp.ones((rows, width)), jnp.ones((width, 4 * width)), jnp.ones((4 * width, width))
    both = jax.jit(lambda x: (x @ up) @ down)
    both(x).block_until_ready()
    return lambda: both(x).block_until_ready()


def measure_updates(options: argparse.Namespace) -> tuple[dict[str, Any], list[float]]:
    calls, known, flops = updates(options)
    products = product_rate(options)
    clocks = {name: Clock() for name in calls}
    alone = Clock()
    for call in calls.values():
        call()
    for number in range(options.rounds):
        for name, call in calls.items():
            clocks[name].time(call, 4 if name == "single" else 1)
        alone.time(products, 40)
        print(number + 1, {name: round(clock.wall[-1], 3) for name, clock in clocks.items()}, flush=True)
    one, found = clocks["single"], {}
    for name, clock in clocks.items():
        members = 1 if name == "single" else int(name.split()[0])
        paired = [a / members / b for a, b in zip(clock.wall, one.wall, strict=True)]
        found[name] = {
            "members": members,
            "seconds_min": round(min(clock.wall), 4),
            "seconds_median": round(statistics.median(clock.wall), 4),
            "cpu_seconds_median": round(statistics.median(clock.cpu), 4),
            "ratio_paired_median": round(statistics.median(paired), 3),
            "ratio_of_minima": round(min(clock.wall) / members / min(one.wall), 3),
            "cpu_ratio": round(statistics.median(clock.cpu) / members / statistics.median(one.cpu), 3),
            "temporaries_mib": known[name]["temporaries_mib"],
            "compile_seconds": round(known[name]["compile_seconds"], 1),
        }
    rate = 2 * 2 * options.batch * options.tokens * 128 * 512 / statistics.median(alone.cpu)
    share = flops / rate / statistics.median(one.cpu)
    figures = {"updates": found, "product_gflops_of_single": round(flops / 1e9, 3), "product_share": round(share, 3)}
    return figures, [value for clock in clocks.values() for value in clock.others]


def measure_runs(options: argparse.Namespace) -> dict[str, Any]:
    """Whole runs; the first single one, which fills the caches, is left out."""
    run = jp.Run(
        task=jp.Tagging(jp.Tfds("little_world/entities"), words="tokens", tags="tags", max_length=96),
        method=jp.PTuningV2(length=options.length),
        optimizer=jp.Optimizer(learning_rate=3e-2),
        hidden_dropout=options.dropout,
        attention_dropout=options.dropout,
        batch_size=options.batch,
        steps=options.run_steps,
        evaluate_every=options.run_steps,
    )
    with tempfile.TemporaryDirectory() as folder:
        singles, found = Clock(), {}
        for number in range(4):
            one = dataclasses.replace(run, seed=number, folder=f"{folder}/{number}")
            singles.time(lambda one=one: jp.train(one))
        wall, cpu = (statistics.median(times[1:]) for times in (singles.wall, singles.cpu))
        for members in options.members:
            clock, seeds = Clock(), jp.grid({"seed": range(members)})
            for number in range(2):  # the first one compiles, as the first single one does
                many = dataclasses.replace(run, folder=f"{folder}/all {members} {number}")
                clock.time(lambda many=many, seeds=seeds: jp.train_population(many, seeds))
            found[str(members)] = {
                "seconds": round(clock.wall[-1], 2),
                "cpu_seconds": round(clock.cpu[-1], 2),
                "ratio": round(clock.wall[-1] / members / wall, 3),
                "cpu_ratio": round(clock.cpu[-1] / members / cpu, 3),
            }
    return {"steps": options.run_steps, "single": {"seconds": round(wall, 2), "cpu_seconds": round(cpu, 2)}, **found}


def main() -> None:
    options = arguments()
    figures, others = measure_updates(options)
    if options.run_steps:
        figures["runs"] = measure_runs(options)
    shape = {name: getattr(options, name) for name in ("batch", "tokens", "length", "dropout", "rounds")}
    used = versions(("jax", "jaxlib"))
    save("population", {"shape": shape, **figures}, used, statistics.median(others) if others else None)


if __name__ == "__main__":
    main()
