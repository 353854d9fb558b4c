"""What each method adds to the frozen forward and backward pass, as a ratio in one run.

    python benchmarks/overhead.py

The bare pass differentiates with respect to the biases of the embeddings' norm, so that its backward pass runs through
every layer, as that of a method that acts from the lowest layer on; it computes no gradient of a frozen matrix. A
random BERT in float32, no dropout. Every round runs each variant once, in turn; ratios are those of the medians, and of
the fastest rounds. FLOPs are those of the dot products in the compiled program.
"""

import argparse
import dataclasses
import statistics
import time
from typing import Any

from common import busy_seconds, save, versions

import jaxprefix as jp


@dataclasses.dataclass(frozen=True)
class Bare(jp.Method):
    """Nothing but a leaf below all layers that moves to the trainable tree."""

    def build(self, dims: jp.Dims) -> Any:
        return jp.HeadOnly().build(dims)

    def trains(self, path: str) -> bool:
        return path == "embeddings/norm/bias"


def variants(length: int) -> dict[str, jp.Method]:
    inducer = jp.Inducer(key_rank=6, value_rank=4)
    return {
        "bare": Bare(),
        "P-Tuning v2": jp.PTuningV2(length=length, dropout=0.0),
        "APT": jp.AdaptivePrefix(length=length, dropout=0.0),
        "APT, dropout per token": jp.AdaptivePrefix(length=length, dropout=0.1, dropout_unit="token"),
        "APT, dropout per element": jp.AdaptivePrefix(length=length, dropout=0.1),
        "inducer": inducer,
        "inducer + LoRA": jp.Inducer(key_rank=2, value_rank=4) + jp.LoRA(("q",), rank=4, alpha=32.0),
        "LoRA": jp.LoRA(("q", "v"), rank=16, alpha=32.0),
        "parallel adapter": jp.ParallelAdapter(width=16),
        "kernel-mix": jp.KernelMix(query_rank=1, rank=2, shared_query_rank=2, shared_rank=4, dropout=0.0),
    }


def compiled(method: jp.Method, options: argparse.Namespace, tokens: int) -> tuple[Any, Any, dict[str, Any]]:
    """The gradient of a loss, compiled, its arguments, and what the compiler says of it."""
    import jax
    import jax.numpy as jnp

    from jaxprefix.analysis.flops import dot_flops

    config = jp.EncoderConfig(
        model_type="bert",
        vocab=1000,
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        mlp_width=4 * options.width,
        positions=1024,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    encoder = jp.Encoder(config)
    model = jp.TunedModel(encoder, method, jp.SequenceClassifier(num_labels=2))
    tree = jax.jit(encoder.init)(jax.random.key(0), {"input_ids": jnp.zeros((1, 1), int)})["params"]
    trainable, frozen = model.init(jax.random.key(1), tree)
    rows = options.batch
    batch = {
        "input_ids": jnp.ones((rows, tokens), jnp.int32),
        "attention_mask": jnp.ones((rows, tokens), bool),
        "labels": jnp.zeros(rows, jnp.int32),
        "weight": jnp.ones(rows),
    }

    def loss(trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        out = model.forward(trainable, frozen, batch, key=key, training=True)
        return model.head.loss(out.logits, batch)[0]

    arguments = (trainable, frozen, batch, jax.random.key(2))
    program = jax.jit(jax.value_and_grad(loss)).lower(*arguments).compile()
    seen = {
        "gflops": round(dot_flops(program) / 1e9, 3),
        "temporaries_mib": round(program.memory_analysis().temp_size_in_bytes / 2**20),
    }
    return program, arguments, seen


def measure(options: argparse.Namespace, tokens: int, length: int) -> dict[str, Any]:
    import jax

    chosen = {name: compiled(method, options, tokens) for name, method in variants(length).items()}
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for turn in range(options.rounds + 1):
        for name, (program, arguments, _) in chosen.items():
            started = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if turn:  # the first turn warms caches and pages
                seconds[name].append(time.perf_counter() - started)
    bare, found = seconds["bare"], {}
    for name, (_, _, seen) in chosen.items():
        own = seconds[name]
        found[name] = {
            "ratio_of_medians": round(statistics.median(own) / statistics.median(bare), 3),
            "ratio_of_minima": round(min(own) / min(bare), 3),
            "flops_ratio": round(seen["gflops"] / chosen["bare"][2]["gflops"], 4),
            **seen,
        }
        print(tokens, length, name, found[name], flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 512], help="of each row")
    parser.add_argument("--lengths", type=int, nargs="*", default=[16, 128], help="virtual tokens of each layer")
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args()
    from jaxprefix.allocator import keep_large_buffers

    keep_large_buffers()
    for tokens in options.tokens:
        busy, started, own = busy_seconds(), time.perf_counter(), time.process_time()
        cells = {f"{tokens} tokens, {length} virtual": measure(options, tokens, length) for length in options.lengths}
        others = None
        if busy is not None:
            others = max(0.0, busy_seconds() - busy - (time.process_time() - own)) / (time.perf_counter() - started)
        shape = {name: getattr(options, name) for name in ("layers", "width", "heads", "batch", "rounds")}
        figures = {"tokens": tokens, "shape": shape, "cells": cells}
        save(f"overhead_{tokens}", figures, versions(("jax", "jaxlib", "flax")), others)


if __name__ == "__main__":
    main()
