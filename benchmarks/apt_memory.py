"""What a gated prefix adds to the temporaries of the compiled program, by the number of rows.

    python benchmarks/apt_memory.py

Adaptive Prefix Tuning without dropout, less the bare model (the same encoder and head, no virtual tokens), over the
bytes of one layer's scores of the virtual tokens: rows x heads x tokens x virtual tokens x 4. The forward pass is that
of evaluation. The training pass is the gradient of the loss; that of the bare model is by the bias of the embeddings'
norm, so that it too runs through every layer (benchmarks/overhead.py). Programs are compiled from shapes alone, and
nothing runs.
"""

import argparse
from typing import Any

from common import save, versions
from overhead import Bare

import jaxprefix as jp

BOUND = 1.2  # of the forward pass


def temporaries(method: jp.Method, rows: int, unroll: bool, training: bool, options: argparse.Namespace) -> int:
    """Bytes of the compiled forward pass, or of the gradient."""
    import jax
    import jax.numpy as jnp

    config = jp.EncoderConfig(
        model_type="bert",
        vocab=1000,
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        mlp_width=4 * options.width,
        positions=512,
        hidden_dropout=0.0,
        attention_dropout=0.0,
    )
    encoder = jp.Encoder(config, unroll=unroll)
    model = jp.TunedModel(encoder, method, jp.SequenceClassifier(num_labels=2))
    key, of = jax.eval_shape(lambda: jax.random.key(0)), jax.ShapeDtypeStruct
    tree = jax.eval_shape(lambda key: encoder.init(key, {"input_ids": jnp.zeros((1, 1), int)})["params"], key)
    trainable, frozen = jax.eval_shape(model.init, key, tree)
    batch = {
        "input_ids": of((rows, options.tokens), jnp.int32),
        "attention_mask": of((rows, options.tokens), jnp.bool_),
        "labels": of((rows,), jnp.int32),
        "weight": of((rows,), jnp.float32),
    }

    def forward(trainable: Any, frozen: Any, batch: Any) -> Any:
        return model.forward(trainable, frozen, batch).logits

    def loss(trainable: Any, frozen: Any, batch: Any, key: Any) -> Any:
        out = model.forward(trainable, frozen, batch, key=key, training=True)
        return model.head.loss(out.logits, batch)[0]

    if training:
        lowered = jax.jit(jax.value_and_grad(loss)).lower(trainable, frozen, batch, key)
    else:
        lowered = jax.jit(forward).lower(trainable, frozen, batch)
    return lowered.compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=128, help="of each row")
    parser.add_argument("--length", type=int, default=128, help="virtual tokens of each layer")
    parser.add_argument("--batches", type=int, nargs="*", default=[8, 64], help="rows")
    options = parser.parse_args()
    method, found = jp.AdaptivePrefix(length=options.length, dropout=0.0), []
    for training in (False, True):
        for unroll in (True, False):
            for rows in options.batches:
                bare, gated = (temporaries(one, rows, unroll, training, options) for one in (Bare(), method))
                unit = rows * options.heads * options.tokens * options.length * 4
                found.append(
                    {
                        "pass": "training" if training else "forward",
                        "stack": "unrolled" if unroll else "scanned",
                        "rows": rows,
                        "bare_bytes": bare,
                        "gated_bytes": gated,
                        "unit_bytes": unit,
                        "ratio": round((gated - bare) / unit, 4),
                    }
                )
                print(found[-1], flush=True)
    shape = {name: getattr(options, name) for name in ("layers", "width", "heads", "tokens", "length")}
    save("apt_memory", {"shape": shape, "bound": BOUND, "rows": found}, versions(("jax", "jaxlib", "flax")))


if __name__ == "__main__":
    main()
