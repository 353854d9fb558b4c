"""Why gates want a learning rate of their own: Adaptive Prefix Tuning with and without one, and how far gates saturate.

    python benchmarks/gate_rates.py

The task and the settings of configs/compare_world.py; 12 virtual tokens, the length that its budget gives. One
population: learning rates times gate rates times seeds. A gate is saturated where its mean over the validation rows is
below 0.01 or above 0.99.
"""

import argparse
import dataclasses
import logging
from pathlib import Path

import numpy as np
from common import ROOT, save, versions

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers
from jaxprefix.cli.configs import load_config

RATES, GATE_RATES = (0.06, 0.2), (0.005, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/gate_rates"))
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    keep_large_buffers()
    run = dataclasses.replace(
        load_config(str(ROOT / "configs" / "compare_world.py")),
        method=jp.AdaptivePrefix(length=12, init_std=0.5, dropout=0.0, position_offset=False),
        folder=str(options.folder),
    )
    fields = {
        "optimizer.learning_rate": RATES,
        "optimizer.gate_learning_rate": GATE_RATES,
        "seed": range(1, options.seeds + 1),
    }
    rows: dict[tuple, list[tuple[float, float]]] = {}
    for member in jp.train_population(run, jp.grid(fields)).members:
        alpha = jp.read_gates(member.adapter).alpha
        saturated = float(np.mean((alpha < 0.01) | (alpha > 0.99)))
        key = tuple(member.fields[name] for name in list(fields)[:2])
        rows.setdefault(key, []).append((member.metrics["test"]["accuracy"], saturated))
    figures = [
        {
            "rate": rate,
            "gate_rate": gate_rate,
            "accuracies": [round(accuracy, 4) for accuracy, _ in found],
            "saturated": round(float(np.mean([share for _, share in found])), 3),
        }
        for (rate, gate_rate), found in rows.items()
    ]
    for row in figures:
        print(row)
    save("gate_rates", {"steps": run.steps, "rows": figures}, versions(("jax", "jaxlib", "flax")))


if __name__ == "__main__":
    main()
