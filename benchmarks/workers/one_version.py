"""One process of one version of the package: seconds to import, to compile an update and to make one, and its memory.

Works with the package before and after its rooms moved, whichever PYTHONPATH names (benchmarks/before_after.py).
"""

import json
import resource
import statistics
import time

started = time.perf_counter()

import jaxprefix as jp  # noqa: E402

jp.TunedModel  # noqa: B018  what a notebook touches first
imported = time.perf_counter() - started

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxprefix.models.backbones import make_backbone, read_hf_config  # noqa: E402
from jaxprefix.training.step import init_state, make_train_step, run_key  # noqa: E402

BEFORE = "NewTokens" not in jp.__all__  # 0.1.0
ROWS, TOKENS, STEPS = 16, 128, 12
CONFIG = {
    "model_type": "bert",
    "vocab_size": 8000,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
}


def main() -> None:
    backbone = make_backbone(read_hf_config(CONFIG))
    tree = jax.jit(backbone.init)(jax.random.key(0), {"input_ids": jnp.zeros((1, 2), int)})["params"]
    model = jp.TunedModel(backbone, jp.AdaptivePrefix(length=16), jp.SequenceClassifier(num_labels=2))
    trainable, frozen = model.init(jax.random.key(1), tree)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tp"))
    optimizer, shape = jp.Optimizer(), (ROWS, TOKENS)
    names = ("mask", "segments") if BEFORE else ("attention_mask", "token_type_ids")
    batch = {
        "input_ids": jnp.ones(shape, jnp.int32),
        names[0]: jnp.ones(shape, bool),
        names[1]: jnp.zeros(shape, jnp.int32),
        "labels": jnp.zeros(ROWS, jnp.int32),
        "weight": jnp.ones(ROWS, jnp.float32),
    }
    step = make_train_step(model, optimizer, mesh, steps=1000, epoch_steps=100)
    state, rates = init_state(model, trainable, optimizer, run_key(0), mesh), optimizer.rates()
    begun = time.perf_counter()
    state, _ = jax.block_until_ready(step(state, rates, frozen, batch))
    compiled, seconds = time.perf_counter() - begun, []
    for _ in range(STEPS):
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, rates, frozen, batch))
        seconds.append(time.perf_counter() - begun)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"import": imported, "compile": compiled, "step": statistics.median(seconds), "peak_mib": peak}
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
