"""Greedy decoding with P-Tuning v2 on a random GPT-2, once for each line that comes; the first token for `first`."""

import argparse


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("layers", "width", "heads", "batch", "tokens", "new", "length"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--cache", help="folder of compiled programs")
    options = parser.parse_args()
    from jaxprefix.allocator import keep_large_buffers

    keep_large_buffers()  # before jax, as the command line does

    import jax
    import jax.numpy as jnp
    import numpy as np
    from answering import serve
    from common import versions

    import jaxprefix as jp
    from jaxprefix.models.backbones import drawn_backbone
    from jaxprefix.models.decoder_config import DecoderConfig

    if options.cache:
        jax.config.update("jax_compilation_cache_dir", options.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    config = DecoderConfig.from_hf(
        {"model_type": "gpt2", "n_embd": options.width, "n_layer": options.layers, "n_head": options.heads}
    )
    tree = jax.jit(lambda key: drawn_backbone(config, key))(jax.random.key(0))
    model = jp.TunedModel(jp.Decoder(config), jp.PTuningV2(length=options.length), jp.CausalLM())
    trainable, frozen = model.init(jax.random.key(1), tree)
    ids = jnp.asarray(np.random.default_rng(0).integers(5, 50000, (options.batch, options.tokens)), jnp.int32)
    decoding = jp.Decoding(max_new_tokens=options.new)

    def decode() -> float:
        found = jp.generate(model, trainable, frozen, {"input_ids": ids}, decoding)
        return float(jax.block_until_ready(found).lengths[0] * 0)

    serve(decode, attention="xla", packages=versions(("jax", "jaxlib", "flax")))


if __name__ == "__main__":
    main()
