"""Methods times seeds on the task of a config: what `jaxprefix compare` prints, kept with the kind of machine.

    python benchmarks/comparison.py configs/compare_world.py --methods p_tuning_v2 inducer_lora full

It goes on where `jaxprefix compare` with the same arguments was stopped, or just reads what that has finished. The plot
goes to docs/.
"""

import argparse
import dataclasses
import logging
import shutil
from pathlib import Path

from common import ROOT, save, versions

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers
from jaxprefix.cli.configs import parse_run
from jaxprefix.comparison import FACTORS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("config")
    parser.add_argument("--methods", nargs="+", required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=0.02)
    parser.add_argument("--rates-scale", type=float, nargs="+", default=FACTORS)
    parser.add_argument("--name", help="of the result; the config's without compare_ where there is none")
    options, fields = parser.parse_known_args()
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    keep_large_buffers()
    run = parse_run([options.config, *fields], "comparison.py")
    found = jp.compare(run, options.methods, seeds=options.seeds, budget=options.budget, rates=options.rates_scale)
    name = f"comparison_{options.name or Path(options.config).stem.removeprefix('compare_')}"
    picture = found.folder / "plot.png"
    if picture.exists():
        shutil.copy(picture, ROOT / "docs" / f"{name}.png")
    rows = [dataclasses.asdict(row) for row in found.rows]
    length = f"{run.epochs:g} epochs" if run.steps is None else f"{run.steps} steps"
    figures = {"length": length, "batch": run.batch_size, "text": found.text, "rows": rows}
    save(name, figures, versions(("jax", "jaxlib", "flax", "transformers")))


if __name__ == "__main__":
    main()
