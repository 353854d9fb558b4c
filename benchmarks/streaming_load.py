"""Host memory of a sharded load: a fake Llama of 2 GB, written to a temporary folder, read over eight CPU devices.

    python benchmarks/streaming_load.py

Each load is a fresh process. CPU devices live in host memory, so the leaves that are there already, and what the
process held before the load, are taken off the peak of the resident memory while a leaf is read; the most that remains
is what the load itself needed. It is held against one shard plus one layer's tensor, and against leaves made whole on
the host before they are placed.
"""

import argparse
import json
import math
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Worker, busy_seconds, save

WIDTH, HEADS, KV_HEADS, HEAD_WIDTH, MLP, VOCAB = 2048, 32, 4, 64, 5632, 32000
ITEM = 2  # bytes of bfloat16


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor."""
    kv = KV_HEADS * HEAD_WIDTH
    layer = {
        "input_layernorm": (WIDTH,),
        "self_attn.q_proj": (HEADS * HEAD_WIDTH, WIDTH),
        "self_attn.k_proj": (kv, WIDTH),
        "self_attn.v_proj": (kv, WIDTH),
        "self_attn.o_proj": (WIDTH, HEADS * HEAD_WIDTH),
        "post_attention_layernorm": (WIDTH,),
        "mlp.gate_proj": (MLP, WIDTH),
        "mlp.up_proj": (MLP, WIDTH),
        "mlp.down_proj": (WIDTH, MLP),
    }
    found = {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    found |= {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in layer.items()}
    return {**found, "lm_head.weight": (VOCAB, WIDTH)}


def write(folder: Path, layers: int) -> int:
    """Writes the folder, tensor by tensor; returns the bytes of its weights."""
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_WIDTH,
        "intermediate_size": MLP,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    header, end = {}, 0
    for name, shape in shapes(layers).items():
        size = ITEM * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    random = np.random.default_rng(0)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes(layers).values():
            # a random sign and mantissa under an exponent of about 1/64
            bits = random.integers(0, 2**16, math.prod(shape), np.uint16)
            file.write(((bits & 0x80FF) | 0x3C00).tobytes())
    return end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20, help="of the fake model; 20 make 2 GB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        folder.mkdir()
        free = shutil.disk_usage(place).free
        if free < 3e9:
            raise SystemExit(f"{place} has {free / 1e9:.1f} GB free and this needs 3; set TMPDIR to another folder.")
        size = write(folder, options.layers)
        busy = busy_seconds()
        loads, used = {}, {}
        for name, way, cache in (
            ("shards", "shards", "one"),
            ("shards, hashed before", "shards", "one"),
            ("leaves, hashed before", "leaves", "one"),
        ):
            worker = Worker(
                sys.executable,
                "load_shards.py",
                folder,
                way,
                environment={"JAX_PLATFORMS": "cpu", "JAXPREFIX_CACHE": f"{place}/{cache}"},
            )
            loads[name], _ = worker.first, worker.close()
            used = loads[name].pop("packages")
            print(name, loads[name], flush=True)
        identities = {found.pop("identity") for found in loads.values()}
        if len(identities) != 1:
            raise SystemExit("the loads do not agree on what they read")
        busy = None if busy is None else busy_seconds() - busy
    tensor = ITEM * max(math.prod(shape) for shape in shapes(options.layers).values() if shape[0] != VOCAB)
    seconds = sum(found["seconds"] for found in loads.values())
    figures = {
        "model_bytes": size,
        "layers": options.layers,
        "layer_tensor_bytes": tensor,
        "bound_bytes": loads["shards"]["largest_shard_bytes"] + tensor,
        "loads": loads,
        "busy_cores": None if busy is None else round(busy / seconds, 2),
    }
    save("streaming_load", figures, used)


if __name__ == "__main__":
    main()
