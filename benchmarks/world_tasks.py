"""What tuning gains on the tasks of the embedded world: test metric of the head alone, P-Tuning v2, full fine-tuning.

    python benchmarks/world_tasks.py

Each run tunes the encoder that comes with the package for the same number of steps, one seed, and is measured on the
test rows at the checkpoint that the validation rows choose. Learning rates are each method's own.
"""

import argparse
import logging
import tempfile
import time
from typing import Any

from common import busy_seconds, save, versions

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers

TASKS: dict[str, jp.Classification | jp.Tagging] = {
    "questions": jp.Classification(
        jp.Tfds("little_world/questions"), text="question", text_pair="passage", max_length=64
    ),
    "entailment": jp.Classification(
        jp.Tfds("little_world/entailment"), text="premise", text_pair="hypothesis", max_length=64
    ),
    "senses": jp.Classification(jp.Tfds("little_world/senses"), text="sentence1", text_pair="sentence2", max_length=64),
    "entities": jp.Tagging(jp.Tfds("little_world/entities"), max_length=96),
}
# name -> method, learning rate for classification, for tagging
METHODS: dict[str, tuple[Any, float, float]] = {
    "head_only": (jp.HeadOnly(), 1e-2, 1e-2),
    "p_tuning_v2": (jp.PTuningV2(length=32, init_std=0.5, dropout=0.0, position_offset=False), 3e-2, 3e-2),
    "full": (jp.FullFineTuning(), 1e-3, 1e-3),
}


def tune(task: str, method: str, steps: int, batch: int, seed: int, backbone: str = "tiny-encoder") -> dict[str, Any]:
    """One run from its data to its test metric; `seconds` are wall time, compilations included."""
    made, *rates = METHODS[method]
    rate = rates[isinstance(TASKS[task], jp.Tagging)]
    busy, started, cpu = busy_seconds(), time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = jp.train(
            jp.Run(
                task=TASKS[task],
                backbone=backbone,
                method=made,
                optimizer=jp.Optimizer(learning_rate=rate, warmup=steps // 10),
                hidden_dropout=0.0,
                attention_dropout=0.0,
                batch_size=batch,
                steps=steps,
                evaluate_every=max(steps // 2, 1),
                eval_batch_size=100,
                seed=seed,
                folder=folder,
            )
        )
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    metric, value = next(iter(result.metrics["test"].items()))
    found = {"metric": metric, "value": round(value, 4), "rate": rate}
    found.update(seconds=round(seconds, 1), cpu_seconds=round(cpu, 1))
    if busy is not None:
        found["others_cores"] = round((busy_seconds() - busy - cpu) / seconds, 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", choices=TASKS, default=list(TASKS), help="which tasks")
    parser.add_argument("--steps", type=int, default=600, help="updates of each run")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="world_tasks", help="of the result file")
    options = parser.parse_args()
    logging.getLogger("jaxprefix").setLevel(logging.WARNING)
    keep_large_buffers()
    runs: dict[str, dict[str, Any]] = {}
    for task in options.tasks:
        runs[task] = {}
        for method in METHODS:
            runs[task][method] = tune(task, method, options.steps, options.batch, options.seed)
            print(task, method, runs[task][method], flush=True)
        figures = {"steps": options.steps, "batch": options.batch, "seed": options.seed, "runs": runs}
        save(options.name, figures, versions(("jax", "jaxlib", "flax", "transformers")))


if __name__ == "__main__":
    main()
