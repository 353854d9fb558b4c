"""What the compiled training step computes, before it runs: FLOPs over the least, temporaries, compilations.

    python benchmarks/program.py

FLOPs are those of the dot products in the optimised program, loops multiplied out, over the least that forward pass,
activation gradients and trained leaves need (jaxprefix/analysis/least_flops.py), with no rematerialisation. Shapes are
BERT's; no weights are drawn. Compilations are counted while a small model takes steps of several padded lengths.
"""

import argparse
from typing import Any

from common import save, versions

SHAPES = {"6x384": (6, 384), "12x768": (12, 768)}


def config(layers: int, width: int, heads: int, vocab: int = 30522) -> Any:
    import jaxprefix as jp

    return jp.EncoderConfig(
        model_type="bert", vocab=vocab, width=width, layers=layers, heads=heads, mlp_width=4 * width, positions=512
    )


def batch_shapes(rows: int, tokens: int) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    of = jax.ShapeDtypeStruct
    columns = {"input_ids": jnp.int32, "attention_mask": jnp.bool_, "token_type_ids": jnp.int32}
    return {
        **{name: of((rows, tokens), dtype) for name, dtype in columns.items()},
        "labels": of((rows,), jnp.int32),
        "weight": of((rows,), jnp.float32),
    }


def compiled_step(layers: int, width: int, rows: int, tokens: int, length: int, unroll: bool) -> dict[str, Any]:
    """The update of a BERT of that shape, compiled from shapes alone."""
    import time

    import jax
    import jax.numpy as jnp

    import jaxprefix as jp
    from jaxprefix.analysis.flops import dot_flops
    from jaxprefix.analysis.least_flops import least_flops
    from jaxprefix.distributed.mesh import make_mesh
    from jaxprefix.training.step import init_state, make_train_step

    encoder = jp.Encoder(config(layers, width, 12), jnp.float32, unroll)
    model = jp.TunedModel(encoder, jp.PTuningV2(length=length), jp.SequenceClassifier(num_labels=4))
    key = jax.random.key(0)
    tree = jax.eval_shape(lambda key: encoder.init(key, {"input_ids": jnp.zeros((1, 1), int)})["params"], key)
    trainable, frozen = jax.eval_shape(model.init, key, tree)
    mesh, optimizer = make_mesh(jp.MeshShape(data=1), jax.devices()[:1]), jp.Optimizer()
    step = make_train_step(model, optimizer, mesh, steps=1000, epoch_steps=1000)
    state = jax.eval_shape(lambda trainable, key: init_state(model, trainable, optimizer, key, mesh), trainable, key)
    started = time.perf_counter()
    lowered = step.lower(state, optimizer.rates(), frozen, batch_shapes(rows, tokens))
    traced = time.perf_counter()
    compiled = lowered.compile()
    flops, least = dot_flops(compiled), least_flops(model, trainable, rows, tokens).total
    return {
        "dot_gflops": round(flops / 1e9, 3),
        "least_gflops": round(least / 1e9, 3),
        "ratio": round(flops / least, 5),
        "temporaries_mib": round(compiled.memory_analysis().temp_size_in_bytes / 2**20),
        "trace_seconds": round(traced - started, 2),
        "compile_seconds": round(time.perf_counter() - traced, 2),
    }


def compilations(lengths: tuple[int, ...], turns: int) -> dict[str, int]:
    """How many programs the backend compiles while steps of these padded lengths alternate."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import jaxprefix as jp
    from jaxprefix.distributed.mesh import make_mesh, put_batch
    from jaxprefix.training.step import init_state, make_train_step

    encoder = jp.Encoder(config(2, 32, 4, vocab=100))
    tree = encoder.init(jax.random.key(0), {"input_ids": jnp.zeros((1, 1), int)})["params"]
    model = jp.TunedModel(encoder, jp.PTuningV2(length=4), jp.SequenceClassifier(num_labels=3))
    trainable, frozen = model.init(jax.random.key(1), tree)
    mesh, optimizer = make_mesh(jp.MeshShape(data=1), jax.devices()[:1]), jp.Optimizer()
    step = make_train_step(model, optimizer, mesh, steps=100, epoch_steps=10)
    state, rates = init_state(model, trainable, optimizer, jax.random.key(2), mesh), jax.device_put(optimizer.rates())
    placed = [
        put_batch({name: np.ones(leaf.shape, leaf.dtype) for name, leaf in batch_shapes(4, length).items()}, mesh)
        for length in lengths
    ]
    found = []

    def note(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(note)
    for _ in range(turns):
        for batch in placed:
            state, _ = step(state, rates, frozen, batch)
    jax.block_until_ready(state)
    return {"lengths": len(lengths), "steps": turns * len(lengths), "programs": len(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="rows")
    parser.add_argument("--tokens", type=int, default=128, help="of each row")
    parser.add_argument("--length", type=int, default=20, help="virtual tokens of each layer")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    steps = {}
    for shape in options.shapes:
        for unroll in (True, False):
            name = f"{shape}, {'unrolled' if unroll else 'scanned'}"
            steps[name] = compiled_step(*SHAPES[shape], options.batch, options.tokens, options.length, unroll)
            print(name, steps[name], flush=True)
    sizes = {"batch": options.batch, "tokens": options.tokens, "length": options.length}
    figures = {"sizes": sizes, "steps": steps, "compilations": compilations((8, 16, 24), turns=3)}
    print(figures["compilations"])
    save("program", figures, versions(("jax", "jaxlib")))


if __name__ == "__main__":
    main()
