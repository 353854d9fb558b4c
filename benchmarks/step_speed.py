"""Seconds per training step beside Hugging Face PEFT's prefix tuning in torch, interleaved in one run.

    python benchmarks/step_speed.py --layers 6 --width 384 --rounds 20 --python-torch OTHER/bin/python

P virtual tokens in every layer of a random BERT, float32, dropouts of 0.1, AdamW. Every round runs one step of each
worker, so that what else the machine does falls on all of them; the first step of each (compilation) is left out.
PEFT runs twice, as it comes and with OpenMP threads that sleep while they wait (they lose less to other processes);
the one with the smaller median is what ratios refer to.
The result goes to benchmarks/results/step_speed_<layers>x<width>.json.
"""

import argparse
import statistics
import sys

from common import Worker, busy_seconds, save

PEFT = {"PEFT": {}, "PEFT, passive OpenMP": {"OMP_WAIT_POLICY": "passive"}}
VARIANTS = {
    "jaxprefix": (),
    "jaxprefix, allocator's default": ("--allocator", "default"),
    "jaxprefix, scanned layers": ("--unroll", "no"),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--tokens", type=int, default=128, help="of each row")
    parser.add_argument("--length", type=int, default=20, help="virtual tokens of each layer")
    parser.add_argument("--rounds", type=int, default=20, help="timed steps of each worker")
    parser.add_argument("--threads", type=int, default=2, help="of torch; XLA takes one for each core")
    parser.add_argument("--which", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="variants of jaxprefix")
    parser.add_argument("--python-torch", default=sys.executable, help="the interpreter that has torch and peft")
    return parser.parse_args()


def measure(workers: dict[str, Worker], rounds: int) -> dict[str, list[dict]]:
    """One step of each worker, round after round; each with the cores that others kept busy meanwhile."""
    steps: dict[str, list[dict]] = {name: [] for name in workers}
    for number in range(rounds):
        for name, worker in workers.items():
            before = busy_seconds()
            step = worker.ask()
            if before is not None:
                own = step["user"] + step["system"]
                step["others"] = max(0.0, (busy_seconds() - before - own) / step["wall"])
            steps[name].append(step)
        print(number + 1, {name: round(found[-1]["wall"], 3) for name, found in steps.items()}, flush=True)
    return steps


def summary(steps: list[dict], peft: list[dict], tokens: int) -> dict[str, float]:
    """Of one worker: times of a step, and tokens/s as a multiple of PEFT's."""
    wall, cpu = [step["wall"] for step in steps], [step["user"] + step["system"] for step in steps]
    wall_peft, cpu_peft = [step["wall"] for step in peft], [step["user"] + step["system"] for step in peft]
    paired = [b / a for a, b in zip(wall, wall_peft, strict=True)]
    return {
        "seconds_min": round(min(wall), 4),
        "seconds_median": round(statistics.median(wall), 4),
        "cpu_seconds_min": round(min(cpu), 4),
        "cpu_seconds_median": round(statistics.median(cpu), 4),
        "system_seconds_median": round(statistics.median(step["system"] for step in steps), 4),
        "page_faults_median": int(statistics.median(step["faults"] for step in steps)),
        "peak_mib": round(steps[-1]["peak"] / 2**20),
        "tokens_per_second": round(tokens / min(wall)),
        "seconds": [round(seconds, 3) for seconds in wall],
        "ratio_of_minima": round(min(wall_peft) / min(wall), 3),
        "ratio_of_medians": round(statistics.median(wall_peft) / statistics.median(wall), 3),
        "ratio_paired_median": round(statistics.median(paired), 3),
        "cpu_ratio_of_minima": round(min(cpu_peft) / min(cpu), 3),
    }


def main() -> None:
    options = arguments()
    names = ("layers", "width", "heads", "batch", "tokens", "length")
    shape = [word for name in names for word in (f"--{name}", getattr(options, name))]
    workers = {
        name: Worker(options.python_torch, "step_peft.py", *shape, "--threads", options.threads, environment=waiting)
        for name, waiting in PEFT.items()
    }
    for name in options.which:
        workers[name] = Worker(sys.executable, "step_jaxprefix.py", *shape, *VARIANTS[name])
    steps = measure(workers, options.rounds)
    baseline = min(PEFT, key=lambda name: statistics.median(step["wall"] for step in steps[name]))
    used = {}
    for worker in workers.values():
        used.update(worker.first["packages"])
    figures = {
        "shape": {name: getattr(options, name) for name in names},
        "rounds": options.rounds,
        "threads": options.threads,
        "attention_of_peft": workers["PEFT"].first["attention"],
        "baseline": baseline,
        "trained": {name: worker.first["trained"] for name, worker in workers.items()},
        "first_step_seconds": {name: round(worker.first["first_step"], 2) for name, worker in workers.items()},
        "steps": {
            name: summary(found, steps[baseline], options.batch * options.tokens) for name, found in steps.items()
        },
    }
    for worker in workers.values():
        worker.close()
    others = [step["others"] for found in steps.values() for step in found if "others" in step]
    save(f"step_speed_{options.layers}x{options.width}", figures, used, statistics.median(others) if others else None)
    for name, found in figures["steps"].items():
        print(name, found)


if __name__ == "__main__":
    main()
