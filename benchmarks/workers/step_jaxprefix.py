"""Training steps of P-Tuning v2 by jaxprefix on a random BERT, one for each line that comes."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("layers", "width", "heads", "batch", "tokens", "length"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--allocator", choices=("kept", "default"), default="kept")
    parser.add_argument("--unroll", choices=("auto", "yes", "no"), default="auto")
    options = parser.parse_args()
    if options.allocator == "kept":
        from jaxprefix.allocator import keep_large_buffers

        keep_large_buffers()  # before jax, as the command line does

    import jax
    import jax.numpy as jnp
    import numpy as np
    from answering import serve
    from common import versions

    import jaxprefix as jp
    from jaxprefix.distributed.mesh import make_mesh, put_batch
    from jaxprefix.training.step import init_state, make_train_step

    config = jp.EncoderConfig(
        model_type="bert",
        vocab=30522,
        width=options.width,
        layers=options.layers,
        heads=options.heads,
        mlp_width=4 * options.width,
        positions=512,
    )
    unroll = {"auto": None, "yes": True, "no": False}[options.unroll]
    encoder = jp.Encoder(config, jnp.float32, unroll)
    example = {"input_ids": jnp.zeros((1, 1), jnp.int32)}
    backbone = jax.jit(lambda key: encoder.init(key, example)["params"])(jax.random.key(0))
    head = jp.SequenceClassifier(num_labels=4, pooling="pooler")
    model = jp.TunedModel(encoder, jp.PTuningV2(length=options.length), head)
    trainable, frozen = model.init(jax.random.key(1), backbone)

    mesh, optimizer = make_mesh(jp.MeshShape(data=1), jax.devices()[:1]), jp.Optimizer(learning_rate=1e-3, clip=None)
    random = np.random.default_rng(0)
    batch = {
        "input_ids": random.integers(5, 30000, (options.batch, options.tokens), np.int32),
        "attention_mask": np.ones((options.batch, options.tokens), bool),
        "token_type_ids": np.zeros((options.batch, options.tokens), np.int32),
        "weight": np.ones(options.batch, np.float32),
        "labels": random.integers(0, 4, options.batch, np.int32),
    }
    train_step = make_train_step(model, optimizer, mesh, steps=1000, epoch_steps=1000)
    state = init_state(model, trainable, optimizer, jax.random.key(2), mesh)
    rates, placed = jax.device_put(optimizer.rates()), put_batch(batch, mesh)

    def step() -> float:
        nonlocal state
        state, metrics = train_step(state, rates, frozen, placed)
        return float(metrics["loss"])

    serve(step, trained=sum(leaf.size for leaf in jax.tree.leaves(trainable)), packages=versions(("jax", "jaxlib")))


if __name__ == "__main__":
    main()
