"""Folders of every shape give the tree that was saved, leaf by leaf, in the requested dtype and place."""

import hashlib
import logging
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from jaxprefix.hf import safetensors_files
from jaxprefix.hf.loading import load_pretrained, read_backbone
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.trees import flatten
from tests.models import folders


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def assert_tree(frozen, expected, dtype=np.float32):
    flat = flatten(frozen)
    assert flat.keys() == expected.keys()
    for path, leaf in flat.items():
        assert isinstance(leaf, jax.Array) and leaf.dtype == dtype, path
        np.testing.assert_array_equal(np.asarray(leaf), expected[path].astype(dtype), err_msg=path)


VARIANTS = [
    {},
    {"prefix": "bert."},
    {"prefix": "bert.", "old_norms": True, "mlm": True},
    {"prefix": "0.auto_model.", "pooler": False},
    {"old_norms": True, "pooler": False},
    {"prefix": "bert.", "mlm": True, "untied": True},
    {"kind": "roberta", "prefix": "roberta.", "mlm": True, "pooler": False},
    {"kind": "roberta", "prefix": "roberta.", "mlm": True, "untied": True},
    {"kind": "roberta"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_reads_what_was_saved(tmp_path, variant, shards):
    tensors, expected = folders.model(**variant)
    kind = variant.get("kind", "bert")
    settings = folders.config(kind, tie_word_embeddings=not variant.get("untied", False))
    folder = folders.write(tmp_path / "m", tensors, settings, shards=shards)
    config, frozen, report = read_backbone(str(folder))
    assert_tree(frozen, expected)
    assert config == EncoderConfig.from_hf(settings)
    assert report.unused == ()
    assert set(report.fingerprint) == set(tensors)
    absent = {path.split("/")[0] for path in report.missing}
    assert absent == {"pooler", "mlm"} - set(frozen)
    assert not absent & set(frozen)


def test_the_tree_is_the_encoders_own(tmp_path):
    tensors, _ = folders.model(mlm=True)
    config, frozen, _ = read_backbone(str(folders.write(tmp_path / "m", tensors, folders.config())))
    batch = {"input_ids": jnp.zeros((1, 2), int)}
    params = jax.eval_shape(Encoder(config).init, jax.random.key(0), batch)["params"]
    shapes = {path: leaf.shape for path, leaf in flatten(params).items()}
    loaded = {path: leaf.shape for path, leaf in flatten(frozen).items() if path in shapes}
    assert loaded == shapes


@pytest.mark.parametrize("name", ["bert_weights.safetensors", "model.fp16.safetensors"])
def test_one_file_of_any_name(tmp_path, name):
    tensors, expected = folders.model()
    folder = folders.write(tmp_path / "m", tensors, folders.config(), name=name)
    assert_tree(read_backbone(str(folder))[1], expected)


@pytest.mark.parametrize("stored", [np.float32, np.float16, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("wanted", [jnp.float32, jnp.bfloat16])
def test_dtypes(tmp_path, stored, wanted):
    tensors, expected = folders.model(dtype=stored)
    folder = folders.write(tmp_path / "m", tensors, folders.config())
    assert_tree(read_backbone(str(folder), dtype=wanted)[1], expected, jnp.dtype(wanted))


def test_a_tied_decoder_is_not_stored_twice(tmp_path):
    tensors, expected = folders.model(prefix="bert.", mlm=True)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    for tie in (True, False, None):
        folder = folders.write(tmp_path / str(tie), tensors, folders.config(tie_word_embeddings=tie))
        _, frozen, report = read_backbone(str(folder))
        assert_tree(frozen, expected)
        assert report.unused == ()


def test_a_decoder_of_its_own_counts_whatever_the_config_says(tmp_path):
    # as transformers 5 has it: a decoder that differs from the word table is not tied to it
    tensors, expected = folders.model(mlm=True, untied=True)
    folder = folders.write(tmp_path / "m", tensors, folders.config(tie_word_embeddings=True))
    assert_tree(read_backbone(str(folder))[1], expected)


def test_tied_words_under_the_decoders_name(tmp_path):
    tensors, expected = folders.model(prefix="roberta.", kind="roberta", mlm=True)
    tensors["lm_head.decoder.weight"] = tensors.pop("roberta.embeddings.word_embeddings.weight")
    tensors["lm_head.decoder.bias"] = tensors.pop("lm_head.bias")
    folder = folders.write(tmp_path / "m", tensors, folders.config("roberta"))
    assert_tree(read_backbone(str(folder))[1], expected)


def test_half_a_head_is_no_head(tmp_path):
    tensors, expected = folders.model(mlm=True)
    del tensors["cls.predictions.transform.dense.bias"], tensors["pooler.dense.bias"]
    _, frozen, report = read_backbone(str(folders.write(tmp_path / "m", tensors, folders.config())))
    assert_tree(frozen, {path: leaf for path, leaf in expected.items() if path.split("/")[0] not in ("mlm", "pooler")})
    assert set(report.missing) == {"mlm/dense/bias", "pooler/bias"}
    assert {"pooler.dense.weight", "cls.predictions.bias"} <= set(report.unused)


def test_reports_other_heads_and_passes_over_buffers(tmp_path, caplog):
    tensors, expected = folders.model(prefix="bert.")
    tensors["bert.embeddings.position_ids"] = np.arange(folders.N)[None]
    tensors["classifier.weight"] = np.zeros((2, folders.D), np.float32)
    tensors["classifier.bias"] = np.zeros(2, np.float32)
    folder = folders.write_tokenizer(folders.write(tmp_path / "m", tensors, folders.config()))
    _, frozen, report = read_backbone(str(folder))
    assert_tree(frozen, expected)
    assert report.unused == ("classifier.bias", "classifier.weight")
    with caplog.at_level(logging.INFO, "jaxprefix"):
        load_pretrained(str(folder))
    said = " ".join(caplog.messages)
    assert "no masked-LM head" not in said and "2 tensors that are not used: classifier.bias, classifier.weight" in said


def test_more_layers_than_the_config_says_are_unused(tmp_path):
    tensors, expected = folders.model()
    folder = folders.write(tmp_path / "m", tensors, folders.config(num_hidden_layers=folders.L - 1))
    _, frozen, report = read_backbone(str(folder))
    np.testing.assert_array_equal(frozen["layers"]["q"]["kernel"], expected["layers/q/kernel"][:-1])
    assert len(report.unused) == 16 and all(f"encoder.layer.{folders.L - 1}." in name for name in report.unused)


def test_fingerprints_are_of_the_stored_bytes_and_tell_backbones_apart(tmp_path):
    tensors, _ = folders.model()
    path = folders.write(tmp_path / "a", tensors, folders.config())
    _, _, first = read_backbone(str(path))
    assert first.fingerprint == {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in tensors.items()}
    _, _, sharded = read_backbone(str(folders.write(tmp_path / "b", tensors, folders.config(), shards=2)))
    assert sharded.identity == first.identity
    _, _, norm = read_backbone(str(folders.write(tmp_path / "c", tensors, folders.config(layer_norm_eps=1e-5))))
    tensors["encoder.layer.1.output.dense.bias"][0] += 1
    _, _, other = read_backbone(str(folders.write(tmp_path / "a", tensors, folders.config())))
    assert len({first.identity, norm.identity, other.identity}) == 3


def test_a_second_load_hashes_nothing(tmp_path, monkeypatch, cache):
    tensors, expected = folders.model()
    folder = folders.write(tmp_path / "m", tensors, folders.config(), shards=2)
    first = read_backbone(str(folder))[2]
    (entry, _) = (cache / "fingerprints").glob("*.json")
    hashed = []
    note = safetensors_files.TensorFiles._note
    monkeypatch.setattr(
        safetensors_files.TensorFiles, "_note", lambda self, name, raw: (hashed.append(name), note(self, name, raw))
    )
    _, frozen, second = read_backbone(str(folder))
    assert not hashed and second == first
    assert_tree(frozen, expected)

    entry.write_text("{half an ent")
    assert read_backbone(str(folder))[2] == first and hashed
    hashed.clear()
    file = folder / "model-00001-of-00002.safetensors"
    os.utime(file, ns=(1, 1))
    assert read_backbone(str(folder))[2] == first
    assert set(hashed) == set(list(tensors)[0::2])


def test_a_cache_that_cannot_be_written_is_only_logged(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "file" / "cache"))
    tensors, expected = folders.model()
    folder = folders.write(tmp_path / "m", tensors, folders.config())
    assert_tree(read_backbone(str(folder))[1], expected)
    assert "cannot keep the fingerprints" in caplog.text


def test_load_pretrained_gives_what_a_notebook_needs(tmp_path):
    tensors, expected = folders.model(kind="roberta", prefix="roberta.")
    folder = folders.write_tokenizer(folders.write(tmp_path / "m", tensors, folders.config("roberta")))
    backbone, frozen, tokenizer = load_pretrained(str(folder), dtype=jnp.bfloat16, unroll=False, remat="full")
    assert backbone == Encoder(EncoderConfig.from_hf(folders.config("roberta")), jnp.bfloat16, False, "full")
    hash(backbone)
    assert_tree(frozen, expected, jnp.bfloat16)
    assert tokenizer("hello world")["input_ids"] == [5, 6]


SHARDED = """
import sys, jax, numpy as np
from jaxprefix.hf.loading import read_backbone
from jaxprefix.trees import flatten
jax.config.update("jax_num_cpu_devices", 2)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("fsdp",))
whole = flatten(read_backbone(sys.argv[1])[1])
def rule(path, shape):
    return jax.NamedSharding(mesh, jax.P(None, "fsdp") if path.endswith("kernel") else jax.P())
for given in (rule, jax.NamedSharding(mesh, jax.P())):
    for path, leaf in flatten(read_backbone(sys.argv[1], sharding=given)[1]).items():
        assert leaf.sharding == (given(path, leaf.shape) if given is rule else given), path
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(whole[path]))
        halves = 2 if given is rule and path.endswith("kernel") else 1
        assert leaf.addressable_shards[1].data.size * halves == leaf.size, path
"""

# VmHWM, not ru_maxrss: the latter starts at the size of the process that started this one
MEMORY = """
import re, sys, jax, jax.numpy as jnp
from jaxprefix.hf.loading import read_backbone
jnp.ones((8, 8)).sum().block_until_ready()
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
before = peak()
frozen = read_backbone(sys.argv[1], dtype=sys.argv[2])[1]
leaves = [leaf.nbytes for leaf in jax.tree.leaves(frozen)]
print(peak() - before, sum(leaves), max(leaves))
"""


def run(code, *arguments):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_leaves_land_in_their_shards(tmp_path):
    tensors, _ = folders.model()
    run(SHARDED, folders.write(tmp_path / "m", tensors, folders.config()))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads the memory's peak where Linux keeps it")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_host_never_holds_a_second_copy(tmp_path, monkeypatch, dtype):
    for name, size in {"V": 20000, "D": 768, "F": 3072, "L": 8, "N": 512}.items():
        monkeypatch.setattr(folders, name, size)
    folder = folders.write(tmp_path / "m", folders.model()[0], folders.config(num_attention_heads=12))
    peak, tree, largest = map(int, run(MEMORY, folder, dtype).split())
    assert tree > 140e6
    assert peak < 1.3 * tree + largest
