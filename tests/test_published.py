"""Published configurations have the sizes and settings that were published, and make runs."""

import dataclasses

import jax
import pytest

import jaxprefix as jp
from jaxprefix import published
from jaxprefix.edits import Dims
from jaxprefix.errors import UserError
from jaxprefix.methods import FullFineTuning, collapse, parts_of
from jaxprefix.trees import count
from jaxprefix.typed_json import from_json, to_json


def sizes(layers: int, width: int, **changes) -> Dims:
    heads = width // 64
    usual = {"layers": layers, "heads": heads, "kv_heads": heads, "width": width, "head_width": 64}
    return Dims(**{**usual, "mlp_width": 4 * width, "vocab": 30000, "positions": 512, **changes})


BACKBONES = {
    "bert-base-cased": sizes(12, 768),
    "bert-base-uncased": sizes(12, 768),
    "bert-large-cased": sizes(24, 1024),
    "bert-large-uncased": sizes(24, 1024),
    "roberta-base": sizes(12, 768),
    "roberta-large": sizes(24, 1024),
    "gpt2": sizes(12, 768, positions=1024, causal=True),
    "deberta-xlarge": sizes(48, 1024),
}
BASE = {"gpt2": 124_439_808, "roberta-base": 124_645_632}  # parameters, without a head


def parameters(method, backbone):
    module = method.build(BACKBONES[backbone])
    return count(jax.eval_shape(lambda: module.init(jax.random.key(0))).get("params", {}))


# The counts printed for P-Tuning v2 and Adaptive Prefix Tuning


@pytest.mark.parametrize(
    ("backbone", "length", "plain", "adaptive"),
    [
        ("bert-base-cased", 16, 294_912, 442_380),
        ("bert-base-cased", 20, 368_640, 552_972),
        ("bert-large-cased", 20, 983_040, 1_474_584),
        ("bert-large-cased", 128, 6_291_456, 9_437_208),
        ("roberta-large", 8, 393_216, 589_848),
        ("deberta-xlarge", 16, 1_572_864, 2_359_344),
    ],
)
def test_parameters_of_prefixes_and_gates(backbone, length, plain, adaptive):
    layers, width = BACKBONES[backbone].layers, BACKBONES[backbone].width
    assert parameters(jp.PTuningV2(length=length), backbone) == plain == 2 * layers * length * width
    assert parameters(jp.AdaptivePrefix(length=length), backbone) == adaptive == 3 * layers * length * width + layers
    without = {
        jp.AdaptivePrefix(length=length, token_gate=False): plain + layers,
        jp.AdaptivePrefix(length=length, layer_scale=False): adaptive - layers,
        jp.AdaptivePrefix(length=length, gate_source="none"): plain + layers * length + layers,
        jp.AdaptivePrefix(length=length, gate_bias=True): adaptive + layers * length,
    }
    for method, expected in without.items():
        assert parameters(method, backbone) == expected, method
    longer = jp.p_tuning_v2_plus(jp.AdaptivePrefix(length=length))
    assert parameters(longer, backbone) == adaptive - layers


def test_parameters_of_the_prefix_with_an_mlp():
    assert parameters(published.P_TUNING_V2_WIC_BERT_LARGE.method, "bert-large-cased") == 25_760_256
    gated = published.APT_WIC_BERT_LARGE.method
    assert parameters(gated, "bert-large-cased") == 25_760_256 + 24 * 20 * 1024 + 24


# Those of inducer-tuning and what it was compared with: per layer, of all layers, in per cent of the base


COUNTS = {
    "INDUCER_GPT2": (166_956, 2_003_472, 1.610),
    "INDUCER_LORA_GPT2": (166_860, 2_002_320, 1.609),
    "INDUCER_MAM_GPT2": (168_354, 2_020_248, 1.623),
    "KERNEL_MIX_GPT2": (167_424, 2_009_088, 1.615),
    "LORA_GPT2": (167_424, 2_009_088, 1.615),
    "ADAPTER_GPT2": (168_300, 2_019_600, 1.62),
    "INDUCER_ROBERTA_BASE": (50_808, 609_696, 0.489),
    "INDUCER_LORA_ROBERTA_BASE": (50_760, 609_120, 0.489),
    "INDUCER_PARALLEL_ROBERTA_BASE": (49_980, 599_760, 0.481),
    "KERNEL_MIX_ROBERTA_BASE": (50_688, 608_256, 0.488),
    "LORA_ROBERTA_BASE": (49_152, 589_824, 0.473),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_by_layer_and_their_share(name):
    value, (per_layer, total, percent) = getattr(published, name), COUNTS[name]
    found = parameters(value.method, value.backbone)
    assert found == total == 12 * per_layer
    share = 100 * found / BASE[value.backbone]
    digits = len(str(percent).split(".")[1])
    assert share == pytest.approx(percent, abs=0.51 * 10**-digits)
    assert value.percent == pytest.approx(share, abs=0.01)


def test_a_prefix_is_counted_without_its_mlp():
    value = published.PREFIX_TUNING_GPT2
    assert parameters(value.method, "gpt2") == 9_932_288  # 9.93 million while training
    kept = jax.eval_shape(
        lambda: collapse(
            value.method,
            value.method.build(BACKBONES["gpt2"]).init(jax.random.key(0))["params"],
            BACKBONES["gpt2"],
        )[1]
    )
    assert count(kept) == 1_990_656
    assert 100 * count(kept) / BASE["gpt2"] == pytest.approx(value.percent, abs=5e-3)


def test_the_mixed_adapter_is_counted_without_its_mlp():
    value = published.MAM_ROBERTA_BASE
    prefix, adapter = parts_of(value.method)
    kept = parameters(jp.PTuningV2(length=prefix.length), "roberta-base") + parameters(adapter, "roberta-base")
    assert 100 * kept / BASE["roberta-base"] == pytest.approx(value.percent, abs=5e-4)


# What they are as runs

TASKS = {
    "classification": jp.Classification(jp.Files("train.jsonl"), max_length=77),
    "tagging": jp.Tagging(jp.Files("train.jsonl"), max_length=77),
}


@pytest.mark.parametrize("value", published.list_published(), ids=lambda value: value.name)
def test_every_one_is_found_by_name_builds_and_makes_a_run_that_can_be_stored(value):
    assert getattr(jp.published, value.name) is value
    assert value.name in dir(jp.published)
    value.method.build(BACKBONES[value.backbone])
    value.optimizer.check()
    if value.question not in TASKS:
        for task in TASKS.values():
            with pytest.raises(UserError, match=f"{value.name} was published for"):
                value.run(task)
        return
    run = value.run(TASKS[value.question], folder="elsewhere")
    run.check()
    assert (run.method, run.batch_size, run.folder) == (value.method, value.batch_size, "elsewhere")
    assert run.task.max_length == value.max_length
    offset = 0 if isinstance(run.method, FullFineTuning) else _offset(value)
    assert run.task.max_length + offset <= 512  # what the position table of all of them can number
    assert from_json(to_json(run), jp.Run) == run


@pytest.mark.parametrize(
    "value", [v for v in published.list_published() if v.question == "generation"], ids=lambda value: value.name
)
def test_those_for_generation_run_on_decoders_and_train_the_words_that_a_format_adds(value):
    plain = jp.ConditionalGeneration(jp.Files("train.jsonl"))
    assert value.run(plain).method == value.method
    run = value.run(jp.ConditionalGeneration(jp.Files("train.json"), format=jp.WebNLG()))
    run.check()
    assert from_json(to_json(run), jp.Run) == run
    words = [part for part in parts_of(run.method) if isinstance(part, jp.NewTokens)]
    assert [part.count for part in words] == [16]
    run.method.build(BACKBONES["gpt2"])


def _offset(value):
    module = value.method.build(BACKBONES[value.backbone])
    return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0))[0]).positions


def test_a_config_file_uses_one_in_a_line():
    from jaxprefix.cli.configs import load_config

    task = jp.Classification(
        jp.Tfds("glue/rte", test=None), text="sentence1", text_pair="sentence2", label="label", max_length=128
    )
    assert load_config("configs/rte_bert_large.py") == jp.Run(
        task=task,
        backbone="bert-large-cased",
        method=jp.PTuningV2(length=20),
        head=jp.SequenceClassifier(pooling="pooler"),
        optimizer=jp.Optimizer(learning_rate=1e-2, schedule="linear"),
        batch_size=32,
        epochs=60.0,
        hidden_dropout=0.1,
        seed=11,
        folder="runs/rte_bert_large",
    )


def test_adaptive_prefix_tuning_keeps_lengths_and_settings_of_p_tuning_v2():
    for backbone, size in (("bert-base-cased", "BERT_BASE"), ("bert-large-cased", "BERT_LARGE")):
        for script, length in {"BOOLQ": 40, "COPA": 16, "RTE": 20, "WIC": 20, "WSC": 20}.items():
            value = getattr(published, f"APT_{script}_{size}")
            plain = getattr(published, f"P_TUNING_V2_{script}_BERT_LARGE")
            assert (value.backbone, value.method.length) == (backbone, length)
            assert (value.optimizer, value.epochs, value.seed) == (plain.optimizer, plain.epochs, plain.seed)
        for script, length in {"CONLL03": 11, "CONLL04": 128, "ONTONOTES": 16}.items():
            value = getattr(published, f"APT_{script}_{size}")
            assert (value.backbone, value.method.length) == (backbone.replace("cased", "uncased"), length)
    assert published.APT_CONLL04_ROBERTA_LARGE.method.length == 144
    assert len(published.list_published()) == 15 + 3 * 8 + len(published.inducer.GLUE) + len(
        published.inducer.GENERATION
    )


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(AttributeError, match="nearest known name is 'APT_RTE_BERT_LARGE'"):
        getattr(jp.published, "APT_RTE_BERT_LARG")  # noqa: B009


def test_the_mixed_adapters_keys_start_as_wide_as_the_authors():
    """He et al.'s module: embedding N(0, 1), two maps by torch's initialisers, tanh between; 0.268 of their code."""
    prefix, _ = parts_of(published.MAM_ROBERTA_BASE.method)
    dims = dataclasses.replace(BACKBONES["roberta-base"], layers=2)  # however many: each is drawn alike
    drawn = prefix.build(dims).init(jax.random.key(0))["params"]
    plain = collapse(prefix, drawn, dims)[1]
    assert float(plain["keys"].std()) == pytest.approx(0.268, abs=0.01)
