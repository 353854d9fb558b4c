"""Several labels a text, and a number, on real text: P-Tuning v2 beside a head alone and beside a constant answer.

    python benchmarks/debian_tags.py --data FOLDER --backbone FOLDER

FOLDER of the data holds train.jsonl, validation.jsonl and test.jsonl with the columns text, tags (a list of names) and
size_kib. The first task is all tags of a text (`jp.MultiLabelClassification`, thresholds chosen on the validation rows,
test f1_micro), the second the natural logarithm of size_kib (`jp.Regression`, test spearman). The learning rate of each
task and method is the better of two after one epoch of seed 0 on the validation rows; seeds 1, 2, ... are trained with
it as one population, and each takes its best checkpoint on the validation rows. The constant set of labels is the best
there is for the *test* rows, so that no choice of a constant could do better.
"""

import argparse
import dataclasses
import json
import logging
import math
from collections import Counter
from pathlib import Path

import numpy as np
from common import save, versions

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers

RATES = (3e-3, 2e-2)
METHODS = {"p_tuning_v2": jp.PTuningV2(length=16), "head_only": jp.HeadOnly()}


def best_constant(rows: list[dict]) -> tuple[float, tuple[str, ...]]:
    """The highest micro F1 that one set of labels for every row can have, and that set.

    Given a size, the most frequent labels are the best; so there is one candidate of each size.
    """
    counts, total, found = Counter(tag for row in rows for tag in row["tags"]), 0, []
    gold = counts.total()
    for size, (_, count) in enumerate(counts.most_common(), 1):
        total += count
        found.append((2 * total / (gold + size * len(rows)), size))
    f1, size = max(found)
    return f1, tuple(tag for tag, _ in counts.most_common(size))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--folder", default="runs/debian_tags")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    keep_large_buffers()
    splits = {}
    for split in ("train", "validation", "test"):
        lines = (options.data / f"{split}.jsonl").read_text().splitlines()
        splits[split] = [{**row, "log_size": math.log(row["size_kib"])} for row in map(json.loads, lines)]
    source = jp.InMemory(**splits)
    tasks = {
        "f1_micro": jp.MultiLabelClassification(source, label="tags", thresholds="validation", max_length=48),
        "spearman": jp.Regression(source, target="log_size", metric="spearman", max_length=48),
    }
    f1, constant = best_constant(splits["test"])
    figures = {"epochs": options.epochs, "constant": {"f1_micro": f1, "labels": constant}, "rows": []}
    for metric, task in tasks.items():
        for method, value in METHODS.items():
            run = jp.Run(task=task, backbone=options.backbone, method=value, batch_size=32, epochs=options.epochs)
            folder = f"{options.folder}/{metric}/{method}"
            search = jp.train_population(
                dataclasses.replace(run, epochs=1, folder=f"{folder}/rates"),
                jp.grid({"optimizer.learning_rate": RATES}),
            )
            if not search.members:
                raise SystemExit("stopped; the same command goes on")
            best = max(search.members, key=lambda member: member.metrics["validation"][metric])
            rate = best.fields["optimizer.learning_rate"]
            trained = jp.train_population(
                dataclasses.replace(
                    run, folder=f"{folder}/seeds", optimizer=dataclasses.replace(run.optimizer, learning_rate=rate)
                ),
                jp.grid({"seed": range(1, options.seeds + 1)}),
            )
            if len(trained.members) < options.seeds:
                raise SystemExit("stopped; the same command goes on")
            values = [member.metrics["test"][metric] for member in trained.members]
            row = {"metric": metric, "method": method, "rate": rate, "values": [round(value, 4) for value in values]}
            row |= {"mean": round(float(np.mean(values)), 4), "deviation": round(float(np.std(values, ddof=1)), 4)}
            figures["rows"].append(row)
            print(row, flush=True)
    print(f"constant: f1_micro {f1:.4f} with {constant}")
    save("debian_tags", figures, versions(("jax", "jaxlib", "flax", "transformers")))


if __name__ == "__main__":
    main()
