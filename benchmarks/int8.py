"""Int8 kernels of the frozen layers: bytes of the frozen tree, and what they cost in accuracy.

    python benchmarks/int8.py --real FOLDER

Three measures: the quickstart's run (`configs/quickstart.py`, without its baseline) over float32 and over int8 kernels,
and the former's adapter on int8 kernels without further training; hidden states of a real encoder, beside bfloat16's
error; the perplexity of the embedded decoder, untuned.
"""

import argparse
import dataclasses
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import RESULTS, ROOT, save, versions

import jaxprefix as jp
from jaxprefix.cli.configs import load_config
from jaxprefix.distributed.mesh import make_mesh
from jaxprefix.models.quantizing import quantize_tree
from jaxprefix.tasks import prepare
from jaxprefix.training.evaluation import run_rows
from jaxprefix.training.step import make_eval_step

PARTS = ("hidden", "perplexity", "quickstart")
TEXTS = (
    "tools to read and write compressed archives",
    "The capital of Norway, seen from the fjord, is smaller than one expects.",
    "a library for fast Fourier transforms, with documentation and examples in C and Fortran",
    "She said that the train had left before anybody noticed the missing bag.",
    "interactive shell",
    "Nobody in the village remembered who had built the bridge, or when, or for whom.",
    "network daemon that answers requests for names and addresses",
    "Prices rose by three percent in March, less than in February.",
)


def size(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def quickstart(steps: int | None) -> dict[str, Any]:
    run = dataclasses.replace(load_config(str(ROOT / "configs" / "quickstart.py")), baseline=None)
    if steps is not None:
        run = dataclasses.replace(run, steps=steps, evaluate_every=max(steps // 2, 1))
    found: dict[str, Any] = {"steps": steps}
    with tempfile.TemporaryDirectory() as folder:
        for quantize in (None, "int8"):
            own = dataclasses.replace(run, quantize=quantize, folder=f"{folder}/{quantize}")
            metrics = jp.train(own).metrics
            adapter = jp.load_adapter(f"{folder}/{quantize}/adapter")
            split = "test" if "test" in metrics else "validation"
            found |= {"split": split, "metric": next(iter(metrics[split]))}
            name = quantize or run.precision
            found[f"tuned on {name}"] = metrics[split]
            found[f"bytes {name}"] = size(adapter.frozen["backbone"])
            if quantize is None:
                backbone = quantize_tree(adapter.frozen["backbone"])
                moved = dataclasses.replace(adapter, frozen={**adapter.frozen, "backbone": backbone})
                found["tuned on float32, asked on int8"] = moved.evaluate(split=split)
    return found


def hidden_states(folder: str) -> dict[str, Any]:
    """Root mean square errors of the last hidden state over that of the float32 one, and cosines of its means."""
    backbone, tree, tokenizer = jp.load_pretrained(folder)
    encoded = tokenizer(list(TEXTS), padding=True, return_tensors="np")
    mask = encoded["attention_mask"].astype(bool)
    batch = {"input_ids": jnp.asarray(encoded["input_ids"]), "attention_mask": jnp.asarray(mask)}

    def hidden(module: Any, tree: Any) -> np.ndarray:
        params = {name: tree[name] for name in module.parts}
        return np.asarray(jax.jit(module.apply)({"params": params}, batch).hidden, np.float32)

    def means(h: np.ndarray) -> np.ndarray:
        pooled = (h * mask[..., None]).sum(1)
        return pooled / np.linalg.norm(pooled, axis=-1, keepdims=True)

    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tree)
    others = {
        "int8": (backbone, quantize_tree(tree)),
        "bfloat16": (dataclasses.replace(backbone, dtype=jnp.bfloat16), narrow),
        "int8, the rest bfloat16": (dataclasses.replace(backbone, dtype=jnp.bfloat16), quantize_tree(narrow)),
    }
    exact = hidden(backbone, tree)
    found: dict[str, Any] = {"float32": {"bytes": size(tree)}}
    for name, (module, other) in others.items():
        h = hidden(module, other)
        error = np.sqrt(((h - exact)[mask] ** 2).mean() / (exact[mask] ** 2).mean())
        cosine = (means(h) * means(exact)).sum(-1).min()
        found[name] = {"bytes": size(other), "relative_error": float(error), "least_cosine": float(cosine)}
    return found


def perplexity() -> dict[str, Any]:
    """Of the embedded decoder on the validation stories, which it was not trained on."""
    task = jp.CausalLanguage(jp.Tfds("little_world/stories", test=None), max_length=80)
    backbone, tree, tokenizer = jp.load_pretrained("tiny-decoder")
    examples = prepare(task, tokenizer, "validation")
    model = jp.TunedModel(backbone, jp.HeadOnly(), jp.CausalLM())
    mesh = make_mesh(jp.MeshShape(data=1), jax.devices()[:1])
    step, found = make_eval_step(model, mesh), {"rows": len(examples)}
    for name, other in {"float32": tree, "int8": quantize_tree(tree)}.items():
        frozen = {"backbone": other, "initialized": {}}
        measured = task.measure(run_rows(step, {}, frozen, task, jp.CausalLM(), examples, 64, mesh))
        found[name] = {"bytes": size(other), **measured}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, help="folder of a Hugging Face BERT with its tokenizer")
    parser.add_argument("--steps", type=int, help="instead of the quickstart's own")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS), help="others are kept as they are")
    options = parser.parse_args()
    logging.getLogger("jaxprefix").setLevel(logging.WARNING)
    path = RESULTS / "int8.json"
    figures: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() else {}
    for part in options.parts:
        if part == "hidden":
            figures |= {"hidden": hidden_states(options.real), "name": Path(options.real).parent.name}
        else:
            figures[part] = perplexity() if part == "perplexity" else quickstart(options.steps)
        print(figures[part], flush=True)
        save("int8", figures, versions(("jax", "jaxlib", "flax", "transformers")))


if __name__ == "__main__":
    main()
