"""The runs that `make_fixtures` makes adapters of: every method with each set of leaves that it can have, every head,
task, format and start, new backbones, and whatever else an adapter's config may hold."""

from typing import Any

import jaxprefix as jp
from jaxprefix.models.rope import Rope
from jaxprefix.training.config import NewBackbone
from tests.past.backbones import DECODER, ENCODER

SOURCE = jp.Files("data/train.jsonl", "data/held.jsonl")
PAIR = {"template": "{text} it was", "template_pair": "{second}"}
PREFIX = jp.PTuningV2(length=3)
NEW_ENCODER = jp.EncoderConfig("bert", **ENCODER)
NEW_DECODER = jp.DecoderConfig(
    "gemma3_text",
    **DECODER,
    tied=True,
    post_norms=True,
    head_norms=True,
    norm_offset=1.0,
    activation="gelu_pytorch_tanh",
    pattern=("sliding", "full"),
    window=3,
    embedding_scale=2.0,
    query_scale=0.5,
    logit_softcap=3.0,
    rope=Rope(100.0, "linear", 2.0),
    sliding_rope=Rope(50.0),
)


def classification(method: Any, backbone: str = "bert", task: dict | None = None, **fields: Any) -> dict[str, Any]:
    return _fields(jp.Classification(SOURCE, **(task or {})), method, backbone, fields)


def tagging(method: Any, backbone: str = "bert", **fields: Any) -> dict[str, Any]:
    return _fields(jp.Tagging(SOURCE), method, backbone, fields)


def masked(method: Any, backbone: Any = "bert", **fields: Any) -> dict[str, Any]:
    return _fields(jp.MaskedLanguage(SOURCE, mask_rate=0.5), method, backbone, fields)


def causal(method: Any, backbone: Any = "gpt2", task: dict | None = None, **fields: Any) -> dict[str, Any]:
    return _fields(jp.CausalLanguage(SOURCE, **(task or {})), method, backbone, fields)


def conditional(method: Any, backbone: str = "gpt2", task: dict | None = None, **fields: Any) -> dict[str, Any]:
    asked = {"separator": " =>", "max_prompt_length": 24, "max_target_length": 12, **(task or {})}
    return _fields(jp.ConditionalGeneration(SOURCE, **asked), method, backbone, fields)


def _fields(task: Any, method: Any, backbone: Any, fields: dict[str, Any]) -> dict[str, Any]:
    named = f"backbones/{backbone}" if isinstance(backbone, str) else backbone
    return {"task": task, "method": method, "backbone": named, **fields}


def pooled(pooling: str, **fields: Any) -> dict[str, Any]:
    return {"head": jp.SequenceClassifier(pooling=pooling, **fields)}


RUNS: dict[str, dict[str, Any]] = {
    # methods
    "p_tuning_v2": classification(PREFIX),
    "p_tuning_v2_mlp": classification(jp.PTuningV2(length=3, mlp_width=5)),
    "p_tuning_v2_lengths": classification(jp.PTuningV2(lengths=(1, 3), position_offset=1, dropout_unit="token")),
    "p_tuning_v2_no_op": classification(jp.PTuningV2(length=3, no_op_start=True, position_offset=False)),
    "p_tuning_v2_llama": causal(jp.PTuningV2(length=3, layers=(1,), leaves_window=True), "llama"),
    "prefix_tuning": conditional(jp.PrefixTuning(length=3, mlp_width=5)),
    "adaptive_prefix": classification(jp.AdaptivePrefix(length=3)),
    "adaptive_prefix_mean": classification(jp.AdaptivePrefix(length=3, gate_source="mean", gate_bias=True)),
    "adaptive_prefix_free": classification(jp.AdaptivePrefix(length=3, gate_source="none")),
    "adaptive_prefix_scale": classification(jp.AdaptivePrefix(length=3, token_gate=False)),
    "adaptive_prefix_mlp": causal(jp.AdaptivePrefix(length=3, mlp_width=5, layer_scale=False)),
    "inducer": classification(jp.Inducer(value_rank=2, key_rank=2)),
    "inducer_identity": classification(jp.Inducer(value_rank=2, key_mode="identity", gating_ablation=True)),
    "inducer_values": classification(jp.Inducer(value_rank=2, key_mode="adaptive", value_gating=True)),
    "inducer_heads": causal(jp.Inducer(value_rank=2, key_rank=1, value_extension=False), "llama"),
    "inducer_legacy": classification(jp.Inducer(value_rank=2, key_rank=1, legacy_mask=True), "roberta"),
    "inducer_shared": classification(jp.Inducer(value_rank=2, key_rank=1, head_share=True, layers=(0,))),
    "multi_head_adapter": classification(jp.MultiHeadAdapter(value_rank=2, zero_init_up=True)),
    "lora": classification(jp.LoRA(rank=2)),
    "lora_bias": classification(jp.LoRA(("q", "k", "v", "o", "up", "down"), rank=1, alpha=2.0, bias=True)),
    "lora_llama": causal(jp.LoRA(("gate", "up"), rank=2, init="folded_normal", layers=(1,)), "llama"),
    "parallel_adapter": classification(jp.ParallelAdapter(width=2, norm=True, init="normal")),
    "parallel_adapter_late": classification(jp.ParallelAdapter(width=2, scale=2.0, after_dropout=True)),
    "sequential_adapter": classification(jp.SequentialAdapter(width=2)),
    "sequential_attention": causal(jp.SequentialAdapter(width=2, norm=True, place="attention")),
    "sequential_block": classification(jp.SequentialAdapter(width=2, place="block", layers=(1,))),
    "kernel_mix": classification(jp.KernelMix(1, 2, 2, 1)),
    "kernel_mix_llama": causal(jp.KernelMix(1, 2, 2, 1), "llama"),
    "prompt_tuning": classification(jp.PromptTuning(length=3)),
    "prompt_tuning_gpt2": causal(jp.PromptTuning(length=3)),
    "bit_fit": classification(jp.BitFit()),
    "bit_fit_gpt2": causal(jp.BitFit()),
    "head_only": classification(jp.HeadOnly()),
    "full_fine_tuning": classification(jp.FullFineTuning()),
    "full_fine_tuning_gpt2": causal(jp.FullFineTuning()),
    "new_words": causal(jp.NewWords(3)),
    # sums: parts are named by their class, and numbered
    "sum_mam": classification(PREFIX + jp.ParallelAdapter(width=2, scale=4.0)),
    "sum_prefixes": causal(PREFIX + jp.AdaptivePrefix(length=2) + jp.PTuningV2(length=1) + jp.LoRA(rank=1), "llama"),
    "sum_new_words": causal(jp.Inducer(value_rank=2, key_rank=1) + jp.NewWords(2) + jp.NewWords(1)),
    "sum_biases": classification(PREFIX + jp.BitFit()),
    # heads
    "first": classification(PREFIX, **pooled("first", bias=False, class_weights=(1.0, 2.0), dropout=0.0)),
    "last": classification(PREFIX, "gpt2", **pooled("last")),
    "pooler": classification(PREFIX, **pooled("pooler")),
    "pooler_born": classification(PREFIX, "roberta", **pooled("pooler")),
    "pooler_trained": classification(PREFIX, **pooled("trained_pooler")),
    "pooler_born_trained": classification(PREFIX, "roberta", **pooled("trained_pooler")),
    "tagging": tagging(PREFIX, head=jp.TokenClassifier()),
    "tagging_llama": tagging(jp.LoRA(rank=2), "llama"),
    "masked": masked(PREFIX, head=jp.MaskedLM()),
    "masked_born": masked(jp.FullFineTuning(), "roberta"),
    "causal": causal(PREFIX, task={"packed": True, "max_length": 32}, head=jp.CausalLM()),
    "conditional_llama": conditional(jp.LoRA(rank=2), "llama", decoding=jp.Decoding(max_new_tokens=3, beams=2)),
    # formats
    "web_nlg": conditional(PREFIX + jp.NewWords(16), task={"format": jp.WebNLG()}),
    "web_nlg_table": conditional(PREFIX, task={"format": jp.WebNLGTable()}),
    "e2e": conditional(PREFIX, task={"format": jp.E2E()}),
    "coqa": conditional(jp.LoRA(rank=2) + jp.NewWords(16), task={"format": jp.CoQA(max_document=6, max_history=1)}),
    "cnn_dailymail": conditional(PREFIX + jp.NewWords(16), task={"format": jp.CnnDailyMail(max_source=6)}),
    # starts
    "start_text": causal(PREFIX, start=jp.TextStart("alice saw", fit=True)),
    "start_vocabulary": causal(PREFIX, "llama", start=jp.VocabularyStart(seed=3)),
    "start_labels": classification(PREFIX, start=jp.LabelStart()),
    "start_sink": classification(PREFIX, start=jp.SinkStart(noise=0.1)),
    "start_adapter": classification(PREFIX, start=jp.AdapterStart("adapters/p_tuning_v2")),
    # what else a config may hold
    "pair": classification(PREFIX, task={**PAIR, "labels": ("good", "bad"), "metric": "f1_macro"}),
    "new_encoder": masked(jp.FullFineTuning(), NewBackbone(NEW_ENCODER, "backbones/bert")),
    "new_decoder": causal(jp.FullFineTuning(), NewBackbone(NEW_DECODER, "backbones/llama"), accumulate=2),
    "quantized": classification(jp.LoRA(rank=2), quantize="int8"),
    "baseline": classification(jp.LoRA(rank=2), baseline=jp.HeadOnly()),
    "rates": classification(
        jp.AdaptivePrefix(length=3),
        optimizer=jp.Optimizer(0.1, 0.05, 0.2, "exponential", warmup_share=0.2, weight_decay=0.1, clip=None),
        label_smoothing=0.1,
        hidden_dropout=0.2,
        attention_dropout=0.0,
        patience=5,
        remat="full",
    ),
}


def published() -> jp.Run:
    """A run of a published configuration on the tiny backbone."""
    task = jp.Classification(SOURCE)
    fields = {"backbone": "backbones/roberta", "epochs": 1.0, "steps": 3, "batch_size": 4, "folder": "runs/published"}
    return jp.published.P_TUNING_V2_BOOLQ_ROBERTA_LARGE.run(task, **fields)


def all_runs() -> dict[str, jp.Run]:
    """Every run by the name of its adapter: three steps, long enough for every leaf to move."""
    usual = {"optimizer": jp.Optimizer(learning_rate=0.1), "steps": 3, "batch_size": 4, "seed": 1}
    runs = {name: jp.Run(**{**usual, "folder": f"runs/{name}", **fields}) for name, fields in RUNS.items()}
    return {**runs, "published": published()}


def midway() -> jp.Run:
    """A run that is to be stopped after the third of its six steps."""
    fields = {**RUNS["adaptive_prefix"], "optimizer": jp.Optimizer(learning_rate=0.1), "steps": 6, "batch_size": 4}
    return jp.Run(**fields, checkpoint_every=2, seed=1, folder="midway")
