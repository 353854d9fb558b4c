"""One run of `jp.train` on labelled text; settings as JSON in the first argument, one answer at the end."""

import json
import logging
import os
import resource
import sys
import tempfile
import time
from typing import Any

from jaxprefix.allocator import keep_large_buffers


def main() -> None:
    started = time.perf_counter()
    settings = json.loads(sys.argv[1])
    keep_large_buffers()  # before jax, as the command line does

    import jax
    from answering import answer, peak_bytes
    from common import versions

    import jaxprefix as jp
    from jaxprefix.training import loop

    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("jax").setLevel(logging.WARNING)
    init_std = 0.0 if settings.get("zeros") else None
    method = {
        "p_tuning_v2": jp.PTuningV2(length=settings["length"], init_std=init_std),
        "no_op": jp.PTuningV2(length=settings["length"], position_offset=False, no_op_start=True),
        "prefix_tuning": jp.PrefixTuning(length=settings["length"]),
        "head_only": jp.HeadOnly(),
        "full": jp.FullFineTuning(),
    }[settings["method"]]
    data = settings["data"]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JAXPREFIX_CACHE"] = (
            f"{folder}/cache"  # compiled programs of earlier runs would shorten the first epoch
        )
        run = jp.Run(
            task=jp.Classification(
                jp.Files(f"{data}/train.jsonl", f"{data}/validation.jsonl", f"{data}/test.jsonl"), max_length=128
            ),
            backbone=settings["backbone"],
            method=method,
            head=jp.SequenceClassifier(pooling=settings.get("pooling", "mean")),
            optimizer=jp.Optimizer(learning_rate=settings["rate"]),
            epochs=settings["epochs"],
            batch_size=settings["batch"],
            seed=settings["seed"],
            folder=f"{folder}/run",
        )
        seen = watch(jax, loop)
        result = jp.train(run)
        setup, last = seen["setup"], seen["last"]
        head, rows = setup.model.head, setup.examples["test"]
        found = loop.run_rows(seen["eval_step"], last, setup.frozen, run.task, head, rows, run.batch_size, setup.mesh)
        test = run.task.measure(found)
    used = resource.getrusage(resource.RUSAGE_SELF)
    answer(
        test_accuracy=test["accuracy"],
        test_accuracy_of_best=result.metrics["test"]["accuracy"],
        validation_accuracy=result.metrics["validation"]["accuracy"],
        seconds_of_epochs=[round(seconds, 3) for seconds in seen["epochs"]],
        trained=sum(leaf.size for leaf in jax.tree.leaves(last)),
        peak_mib=round(peak_bytes() / 2**20),
        seconds=time.perf_counter() - started,
        cpu_seconds=used.ru_utime + used.ru_stime,
        packages=versions(("jax", "jaxlib")),
    )


def watch(jax: Any, loop: Any) -> dict[str, Any]:
    """Times the training part of every epoch (between evaluations) and keeps what the last evaluation saw."""
    found: dict[str, Any] = {"epochs": []}
    evaluate, run_loop = loop._Loop.measure, loop._Loop.loop

    def timed_run(self, state, stop):
        found["setup"], found["eval_step"], found["since"] = self.setup, self._eval_step, time.perf_counter()
        return run_loop(self, state, stop)

    def timed_evaluate(self, trainable, split):
        found["last"] = jax.tree.map(lambda leaf: leaf.copy(), trainable)
        jax.block_until_ready(found["last"])
        found["epochs"].append(time.perf_counter() - found["since"])
        metrics = evaluate(self, trainable, split)
        found["since"] = time.perf_counter()
        return metrics

    loop._Loop.loop, loop._Loop.measure = timed_run, timed_evaluate
    return found


if __name__ == "__main__":
    main()
