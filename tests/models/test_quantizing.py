"""Int8 kernels: the equation, its error, and a model over them that is that of the float kernels they stand for."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.errors import UserError
from jaxprefix.hf.loading import load_pretrained, read_backbone
from jaxprefix.models.quantizing import (
    dequantize_tree,
    int8_kernel,
    quantize_tree,
    quantized_shapes,
    refuse_quantized,
)
from jaxprefix.starts.reading import keys_and_values
from jaxprefix.trees import flatten, merge
from tests import decoders, tiny
from tests.models import decoder_folders, folders
from tests.training.worlds import make_world


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_equation(dtype):
    kernel = jax.random.normal(jax.random.key(0), (3, 40, 7)).at[1, :, 2].set(0).astype(dtype)
    q, scale = int8_kernel(kernel)
    assert q.dtype == jnp.int8 and scale.dtype == jnp.float32 and scale.shape == (3, 7)
    wide = np.asarray(kernel, np.float32)
    assert (np.abs(np.asarray(q)).max(1) == np.where(np.abs(wide).max(1) == 0, 0, 127)).all()
    error = np.abs(wide - np.asarray(q, np.float32) * np.asarray(scale)[:, None])
    assert (error <= 0.5001 * np.asarray(scale)[:, None]).all() and error.max() > 0.01
    assert scale[1, 2] == 1


def model_of(kind, method, **options):
    if kind == "bert":
        return jp.TunedModel(jp.Encoder(tiny.config(), **options), method, jp.SequenceClassifier(3)), tiny.batch()
    return jp.TunedModel(jp.Decoder(decoders.config(kind), **options), method), decoders.batch()


def float_tree(kind):
    return tiny.frozen_tree() if kind == "bert" else decoders.frozen_tree(kind)


METHODS = {
    "lora": jp.LoRA(("q", "v", "down"), rank=2, init="folded_normal"),
    "gated": jp.AdaptivePrefix(length=3),
    "inducer and lora": jp.Inducer(key_rank=2, value_rank=3) + jp.LoRA(("q", "v"), rank=2, init="folded_normal"),
    "biases": jp.BitFit(),
}


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("bert", "gated", {"unroll": False}),  # unrolled: `test_read_keys_and_values`
        pytest.param("bert", "biases", {"unroll": True, "remat": "dots"}, marks=pytest.mark.slow),
        ("gpt2", "inducer and lora", {"unroll": False}),
        ("llama", "lora", {"unroll": False, "remat": "full"}),
        pytest.param("gemma2", "gated", {"unroll": False}, marks=pytest.mark.slow),
    ],
)
def test_gradients_are_those_of_the_kernels_that_it_stands_for(kind, name, options):
    model, batch = model_of(kind, METHODS[name], **options)
    int8 = quantize_tree(float_tree(kind))

    @jax.jit
    @jax.value_and_grad
    def loss(trainable, frozen):
        out = model.forward(trainable, frozen, batch)
        return (out.hidden**2).mean() + (0 if out.logits is None else (out.logits**2).mean())

    trainable, frozen = tiny.drawn(model, int8)
    again, other = tiny.drawn(model, dequantize_tree(int8))
    assert jax.tree.structure(again) == jax.tree.structure(trainable)
    value, grads = loss(trainable, frozen)
    expected, by_float = loss(trainable, other)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for path, grad in flatten(grads).items():
        size = np.abs(flatten(by_float)[path]).max()
        np.testing.assert_allclose(grad, flatten(by_float)[path], atol=1e-5 * max(size, 1), err_msg=path)
    plain = tiny.drawn(model, float_tree(kind))[1]
    assert abs(loss(trainable, plain)[0] - expected) > 1e-5 * abs(expected)  # the test sees a difference of this size


def test_no_float_copy_of_the_stack_exists():
    model, batch = model_of("llama", METHODS["lora"], unroll=False)
    trainable, frozen = tiny.drawn(model, quantize_tree(decoders.frozen_tree("llama")))

    def loss(trainable, frozen):
        return (model.forward(trainable, frozen, batch).hidden ** 2).mean()

    def stacks(frozen):
        program = jax.jit(jax.grad(loss)).lower(trainable, frozen).compile().as_text()
        return set(re.findall(r"\b\w+\[3,16,24\]", program))  # kernels of the MLP

    assert stacks(frozen) == {"s8[3,16,24]"}
    assert stacks({**frozen, "backbone": dequantize_tree(frozen["backbone"])}) == {"f32[3,16,24]"}


def test_in_bfloat16_the_scale_is_not_rounded():
    module = jp.Decoder(decoders.config("llama"), jnp.bfloat16, unroll=False)
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), decoders.frozen_tree("llama"))
    int8 = quantize_tree(tree)
    scale = int8["layers"]["q"]["kernel_scale"]
    assert scale.dtype == jnp.float32 and not np.array_equal(scale, scale.astype(jnp.bfloat16))
    params = {name: int8[name] for name in module.parts}
    hidden = jax.jit(module.apply)({"params": params}, decoders.batch()).hidden
    assert hidden.dtype == jnp.bfloat16 and np.isfinite(np.asarray(hidden, np.float32)).all()


def test_read_keys_and_values():
    int8 = quantize_tree(tiny.frozen_tree())
    ids, encoder = jnp.arange(2, 7), jp.Encoder(tiny.config(), unroll=True)
    for found, expected in zip(
        keys_and_values(encoder, int8, ids), keys_and_values(encoder, dequantize_tree(int8), ids), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading(tmp_path, monkeypatch, dtype):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    folder = folders.write(tmp_path / "m", decoder_folders.model("gpt2")[0], decoder_folders.config("gpt2"))
    _, plain, report = read_backbone(folder, dtype=dtype)
    _, int8, quantized_report = read_backbone(folder, dtype=dtype, quantize="int8")
    assert quantized_report == report  # the backbone is the same one
    expected = flatten(quantize_tree(plain))
    found = flatten(int8)
    assert found.keys() == expected.keys()
    assert {path for path in found if path.endswith("_scale")} == {
        f"layers/{name}/kernel_scale" for name in ("q", "k", "v", "o", "up", "down")
    }
    for path, leaf in found.items():
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(expected[path]), err_msg=path)
        kernel = path.startswith("layers/") and path.endswith("/kernel")
        assert leaf.dtype == (jnp.int8 if kernel else "float32" if path.endswith("_scale") else dtype), path
    shapes = {name: s for path, leaf in flatten(plain).items() for name, s in quantized_shapes(path, leaf).items()}
    assert {path: (leaf.shape, leaf.dtype, leaf.sharding) for path, leaf in found.items()} == {
        path: (shape.shape, shape.dtype, shape.sharding) for path, shape in shapes.items()
    }


def refused(act, *words):
    with pytest.raises(UserError) as caught:
        act()
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and all(word in said for word in words), said


def test_what_needs_float_kernels_is_refused(tmp_path):
    int8 = quantize_tree(tiny.frozen_tree())
    full, _ = model_of("bert", jp.FullFineTuning())
    refused(lambda: full.init(jax.random.key(0), int8), "FullFineTuning trains", "layers/", "without quantize")
    both, _ = model_of("bert", jp.PTuningV2(length=2) + jp.FullFineTuning())
    refused(lambda: both.init(jax.random.key(0), int8), "Combined trains", "without quantize")
    lora, _ = model_of("bert", METHODS["lora"])
    refused(lambda: jp.merge_lora(lora, *lora.init(jax.random.key(0), int8)), "merge_lora", "without quantize")
    refused(lambda: jp.save_pretrained(tmp_path / "x", tiny.config(), int8), "save_pretrained", "without quantize")
    assert not (tmp_path / "x").exists()
    refuse_quantized(dequantize_tree(int8), "nothing")
    task = jp.Classification(jp.Files(train="rows.csv"))
    new = jp.NewBackbone(tiny.config(), "somewhere")
    refused(jp.Run(task, backbone=new, quantize="int8").check, "quantize", "this backbone is new")


@pytest.mark.slow
def test_a_run_and_its_adapter(tmp_path):
    world = make_world(tmp_path / "world")
    run = world.run(tmp_path / "run", steps=6, quantize="int8")
    result = jp.train(run)
    adapter = jp.load_adapter(tmp_path / "run" / "adapter")
    assert adapter.run.quantize == "int8"
    assert adapter.frozen["backbone"]["layers"]["q"]["kernel"].dtype == jnp.int8
    assert adapter.frozen["backbone"]["layers"]["q"]["kernel_scale"].dtype == jnp.float32
    (split, metrics), *_ = result.metrics.items()
    again = adapter.evaluate(split=split)
    assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-5)
    with pytest.raises(UserError, match="FullFineTuning trains"):
        jp.train(dataclasses.replace(run, method=jp.FullFineTuning(), folder=str(tmp_path / "full")))
    jp.train(world.run(tmp_path / "plain", steps=6))
    with pytest.raises(UserError, match=r"float32 with int8 kernels.*make a bank for each|make a bank for each"):
        jp.load_adapters([tmp_path / "run" / "adapter", tmp_path / "plain" / "adapter"])


def test_in_a_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    backbone, frozen, _ = load_pretrained("tiny-decoder", quantize="int8", unroll=False)
    model = jp.TunedModel(backbone, jp.PTuningV2(length=2), jp.CausalLM())
    trainable, frozen = model.init(jax.random.key(0), frozen)
    assert merge(frozen["backbone"])["layers"]["up"]["kernel"].dtype == jnp.int8
    from jaxprefix.generation import generate

    made = generate(model, trainable, frozen, {"input_ids": jnp.arange(2, 6)[None]}, jp.Decoding(max_new_tokens=3))
    assert made is not None
