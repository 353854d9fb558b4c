"""Twenty updates of every method on an encoder and a decoder: digests of leaves, logits and programs, as JSON lines.

Works with the package before and after its rooms moved, whichever PYTHONPATH names, so that two versions can be
compared (benchmarks/same_programs.py).
"""

import hashlib
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np

import jaxprefix as jp
from jaxprefix.models.backbones import make_backbone, read_hf_config
from jaxprefix.training.step import init_state, make_train_step, run_key

BEFORE = "NewTokens" not in jp.__all__  # 0.1.0
STEPS, ROWS, TOKENS, VOCAB = 20, 4, 12, 97
ENCODER = {
    "model_type": "bert",
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
DECODER = {
    "model_type": "mistral",
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "head_dim": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "sliding_window": 6,
    "tie_word_embeddings": True,
}


def methods(causal: bool) -> dict:
    window = {"leaves_window" if BEFORE else "subject_to_window": True}
    new_tokens = jp.NewWords if BEFORE else jp.NewTokens
    both = {
        "p_tuning_v2": jp.PTuningV2(length=5),
        "p_tuning_v2, tokens dropped": jp.PTuningV2(length=5, dropout=0.2, dropout_unit="token"),
        "p_tuning_v2, no-op": jp.PTuningV2(length=5, position_offset=False, no_op_start=True),
        "p_tuning_v2, lengths": jp.PTuningV2(lengths=(2, 0, 4)),
        "p_tuning_v2, window": jp.PTuningV2(length=5, **window),
        "prefix_tuning": jp.PrefixTuning(length=5, mlp_width=7),
        "adaptive_prefix": jp.AdaptivePrefix(length=5),
        "inducer": jp.Inducer(value_rank=3, key_rank=3),
        "multi_head_adapter": jp.MultiHeadAdapter(value_rank=3),
        "lora": jp.LoRA(rank=3),
        "parallel_adapter": jp.ParallelAdapter(width=5),
        "sequential_adapter": jp.SequentialAdapter(width=5),
        "prompt_tuning": jp.PromptTuning(length=5),
        "full": jp.FullFineTuning(),
        "head_only": jp.HeadOnly(),
        "sum": jp.AdaptivePrefix(length=3) + jp.LoRA(rank=2) + jp.Inducer(value_rank=2, key_rank=2),
    }
    if causal:
        return {**both, "new_tokens": jp.PTuningV2(length=3) + new_tokens(2)}
    kernel_mix = jp.KernelMix(query_rank=2, rank=2, shared_query_rank=2, shared_rank=2)
    return {**both, "kernel_mix": kernel_mix, "bitfit": jp.BitFit()}


def batch(left: bool, types: bool = False) -> dict:
    rng = np.random.default_rng(0)
    lengths = np.array([12, 9, 5, 1])[:, None]
    columns = np.arange(TOKENS)
    mask = columns >= TOKENS - lengths if left else columns < lengths
    names = {"mask": "mask", "types": "segments"} if BEFORE else {"mask": "attention_mask", "types": "token_type_ids"}
    columns = {
        "input_ids": jnp.asarray(np.where(mask, rng.integers(2, VOCAB, mask.shape), 0), jnp.int32),
        names["mask"]: jnp.asarray(mask),
        "labels": jnp.asarray(rng.integers(0, 3, ROWS), jnp.int32),
        "weight": jnp.ones(ROWS, jnp.float32),
    }
    return {**columns, names["types"]: jnp.zeros(mask.shape, jnp.int32)} if types else columns


def columns_of(rows: dict) -> list[str]:
    """The keys of a batch in an order that is the same before and after some of them were renamed."""
    old = {"attention_mask": "mask", "token_type_ids": "segments"}
    return sorted(rows, key=lambda name: old.get(name, name))


def digest(tree) -> str:
    """Of the bits of all leaves, by their order (paths may have been renamed)."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()[:16]


def program(compiled) -> str:
    """The optimized HLO without metadata, layouts of names, and numbers of instructions."""
    text = re.sub(r", (metadata|backend_config)=\{[^}]*\}|stack_frame_id=\d+", "", compiled.as_text())
    text = "\n".join(line for line in text.splitlines() if " = " in line)  # without tables of files and frames
    names: dict[str, str] = {}
    text = re.sub(r"%?[\w.-]+(?= = )", lambda m: names.setdefault(m[0].lstrip("%"), f"v{len(names)}"), text)
    return re.sub(r"%([\w.-]+)", lambda m: names.get(m[1], m[1]), text)


def main() -> None:
    known = sys.argv[1:]  # names that are not asked for again
    for kind, raw in (("encoder", ENCODER), ("decoder", DECODER)):
        causal = kind == "decoder"
        backbone = make_backbone(read_hf_config(raw))
        for name, method in methods(causal).items():
            if f"{kind}/{name}" in known:
                continue
            tree = jax.jit(backbone.init)(jax.random.key(1), {"input_ids": jnp.zeros((1, 2), int)})["params"]
            model = jp.TunedModel(backbone, method, jp.SequenceClassifier(num_labels=3))
            trainable, frozen = model.init(jax.random.key(2), tree)
            mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tp"))
            optimizer = jp.Optimizer(weight_decay=0.1, warmup=2, gate_learning_rate=None)
            step = make_train_step(model, optimizer, mesh, steps=STEPS, epoch_steps=STEPS)
            state = init_state(model, trainable, optimizer, run_key(0), mesh)
            rows, rates = batch(False, types=not causal), optimizer.rates()
            names = columns_of(rows)

            def numbered(state, rates, frozen, *columns, step=step, names=names):
                return step(state, rates, frozen, dict(zip(names, columns, strict=True)))

            # Of a dict the order of arguments is that of its keys' names, some of which have changed.
            arguments = (state, rates, frozen, *(rows[name] for name in names))
            compiled = jax.jit(numbered, donate_argnums=0).lower(*arguments).compile()
            memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
            for _ in range(STEPS):
                state, metrics = step(state, rates, frozen, rows)
            found = {
                "name": f"{kind}/{name}",
                "leaves": digest(state.trainable),
                "loss": float(metrics["loss"]),
                "logits": digest(model.apply(state.trainable, frozen, rows).logits),
                "program": hashlib.sha256(program(compiled).encode()).hexdigest()[:16],
                "temporaries": int(memory.temp_size_in_bytes),
                "flops": float(cost.get("flops", 0)),
            }
            if causal:
                found["logits, padded on the left"] = digest(model.apply(state.trainable, frozen, batch(True)).logits)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
