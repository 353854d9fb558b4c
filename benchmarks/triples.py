"""Triples to text in the embedded world: BLEU of the methods on the embedded decoder, full fine-tuning and no tuning.

    python benchmarks/triples.py

Each method is sized to about 2 % of the decoder where it has a size. Its learning rate is the best of three by the
validation perplexity of one seed after half of the steps; then each seed is trained at it, and its best checkpoint
(validation perplexity) writes the test prompts greedily. What was measured already is not made again.
"""

import argparse
import dataclasses
import json
import logging
import tempfile
from typing import Any

from common import RESULTS, ROOT, save, versions

import jaxprefix as jp
from jaxprefix.allocator import keep_large_buffers
from jaxprefix.cli.configs import load_config
from jaxprefix.comparison.entries import entries_for, parameters
from jaxprefix.edits import NO_EDITS
from jaxprefix.hf.loading import load_pretrained
from jaxprefix.training.evaluation import score_texts
from jaxprefix.trees import count

METHODS = ("inducer_lora", "prefix_tuning", "p_tuning_v2", "adaptive_prefix", "lora", "full")
FACTORS = (0.3, 1.0, 3.0)
START = jp.PTuningV2(init_std=0.5, dropout=0.0, position_offset=False)


@dataclasses.dataclass(frozen=True)
class Nothing(jp.Method):
    """No tuning: the backbone as it is."""

    def build(self, dims: jp.Dims) -> Any:
        raise AssertionError("its edits are given")


def tune(run: jp.Run) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        return jp.train(dataclasses.replace(run, folder=folder)).metrics


def untuned(run: jp.Run) -> dict[str, float]:
    backbone, frozen, tokenizer = load_pretrained(run.backbone)

    class Plain(jp.TunedModel):
        def edits(self, trainable: Any) -> jp.Edits:
            return NO_EDITS

    model = Plain(backbone, Nothing(), jp.CausalLM())
    return score_texts(
        run.task, "test", model, {}, {"backbone": frozen, "initialized": {}}, tokenizer, run.decoding, 100
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.02, help="of the decoder's parameters")
    options = parser.parse_args()
    logging.getLogger("jaxprefix").setLevel(logging.WARNING)
    keep_large_buffers()
    base = load_config(str(ROOT / "configs" / "triples.py"))
    base = dataclasses.replace(base, steps=options.steps, evaluate_every=max(options.steps // 2, 1))
    # the search looks at perplexities alone: one token is all that it writes
    short = dataclasses.replace(base, steps=max(options.steps // 2, 1), decoding=jp.Decoding(max_new_tokens=1))
    backbone, frozen, _ = load_pretrained(base.backbone)
    total, known = count(frozen), entries_for(START)
    budget = round(options.share * total)
    del frozen

    path = RESULTS / "triples.json"
    kept = json.loads(path.read_text())["figures"] if path.exists() else {}
    figures = {"steps": options.steps, "batch": base.batch_size, "share": options.share, "methods": {}}
    if all(kept.get(name) == figures[name] for name in ("steps", "batch", "share")):
        figures = kept

    def keep() -> None:
        save("triples", figures, versions(("jax", "jaxlib", "flax", "transformers", "sacrebleu")))

    if "untuned" not in figures:
        figures["untuned"] = untuned(base)
        keep()
    for name in options.methods:
        entry = known[name]
        method = entry.sized(budget, backbone.dims)
        found = figures["methods"].setdefault(name, {"method": repr(method), "rates": {}, "runs": {}})
        found["trained"] = parameters(method, backbone.dims) or total

        def at(run: jp.Run, rate: float, seed: int, method: jp.Method = method) -> dict[str, dict[str, float]]:
            optimizer = dataclasses.replace(run.optimizer, learning_rate=rate)
            return tune(dataclasses.replace(run, method=method, optimizer=optimizer, seed=seed))

        for factor in FACTORS:
            rate = f"{factor * entry.rate:.6g}"
            if rate not in found["rates"]:
                found["rates"][rate] = at(short, float(rate), 100)["validation"]["perplexity"]
                keep()
        best = min(found["rates"], key=found["rates"].get)
        found["rate"] = float(best)
        for seed in map(str, range(options.seeds)):
            if seed not in found["runs"]:
                found["runs"][seed] = at(base, float(best), int(seed))["test"]
                keep()
        print(name, found["rate"], {seed: round(run["bleu"], 1) for seed, run in found["runs"].items()}, flush=True)


if __name__ == "__main__":
    main()
