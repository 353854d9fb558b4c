"""The gate of model folders: nothing in one is run, waited for, or taken where it is not finite or within bounds."""

import json
import os
import re
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxprefix.errors import UserError
from jaxprefix.hf.folders import open_folder
from jaxprefix.hf.loading import load_pretrained, read_backbone
from tests.models import decoder_folders, folders
from tests.training.worlds import write_encoder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return write_encoder(tmp_path / "m")


def refusal(load, *arguments):
    with pytest.raises(UserError) as caught:
        load(*arguments)
    said = str(caught.value)
    assert "\n" not in said and said.endswith("."), said
    return said


class Silent:
    """A standard input that nobody may read."""

    def __getattr__(self, name):
        raise AssertionError(f"standard input was asked for {name}")


def change(folder, name="config.json", **changes):
    file = folder / name
    settings = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not ...}))


CODE = "import pathlib\npathlib.Path(__file__).with_name('ran').write_text('')\nclass C: pass\n"


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("known", [True, False])
def test_code_in_a_folder_is_neither_asked_about_nor_run(folder, monkeypatch, where, known):
    monkeypatch.setattr(sys, "stdin", Silent())
    (folder / "code.py").write_text(CODE)
    mapping = {"AutoConfig": "code.C", "AutoModel": "code.C", "AutoTokenizer": ["code.C", "code.C"]}
    change(folder, where, auto_map=mapping)
    if not known:
        change(folder, model_type=..., architectures=["Other"], type_vocab_size=1)
    if known and where == "config.json":
        assert len(load_pretrained(folder).tokenizer) > 0
    else:
        try:
            load_pretrained(folder)
        except UserError as error:
            assert "\n" not in str(error)
    assert not (folder / "ran").exists() and not list(folder.rglob("ran"))


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "x.safetensors"]
)
def test_a_fifo_is_not_opened(folder, name):
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert f"{name} in {folder} is no file" in refusal(load_pretrained, folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_dropout_prob": 5}, "hidden_dropout"),
        ({"attention_probs_dropout_prob": float("nan")}, "attention_dropout|attention_probs_dropout_prob"),
        ({"layer_norm_eps": float("nan")}, "norm_eps|layer_norm_eps"),
        ({"layer_norm_eps": 0}, "norm_eps"),
        ({"initializer_range": float("inf")}, "initializer_range"),
        ({"num_hidden_layers": 10**6}, "num_hidden_layers = 1000000"),
        ({"num_hidden_layers": 10**18}, "num_hidden_layers"),
        ({"architectures": 3, "model_type": ...}, "config.json"),
        ({"hidden_act": ["gelu"]}, "config.json"),
        ({"model_type": ["bert"]}, "config.json"),
    ],
    ids=str,
)
def test_settings_out_of_bounds(folder, changes, words):
    change(folder, **changes)
    begun = time.monotonic()
    assert re.search(words, refusal(read_backbone, folder))
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gpt2", {"n_head": 0}),
        ("gpt2", {"n_layer": 10**6}),
        ("gpt2", {"n_layer": 10**18}),
        ("gpt2", {"layer_norm_epsilon": float("nan")}),
        ("gpt2", {"attn_pdrop": 5}),
        ("gpt2", {"n_embd": "8"}),
        ("llama", {"num_attention_heads": 0}),
        ("llama", {"num_hidden_layers": 10**18}),
        ("llama", {"rms_norm_eps": -1}),
        ("llama", {"rope_parameters": 3}),
        ("gemma2", {"query_pre_attn_scalar": 0}),
        ("qwen3", {"num_hidden_layers": "x"}),
    ],
    ids=str,
)
def test_settings_of_decoders_out_of_bounds(tmp_path, kind, changes):
    place = folders.write(tmp_path / "m", decoder_folders.model(kind)[0], decoder_folders.config(kind, **changes))
    begun = time.monotonic()
    assert "config.json" in refusal(read_backbone, str(place))
    assert time.monotonic() - begun < 5


def test_json_that_is_too_deep(folder):
    (folder / "config.json").write_text('{"a":' * 100_000)
    assert "nested too deep" in refusal(read_backbone, folder)
    write_encoder(folder)
    header = b'{"a":' * 100_000
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "header is not JSON" in refusal(read_backbone, folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.bias"])
def test_weights_that_are_used_are_finite(folder, value, name):
    from safetensors.numpy import load_file

    tensors = load_file(folder / "model.safetensors")
    tensors["unused.weight"] = np.full(3, value, np.float32)
    save_file(tensors, folder / "model.safetensors")
    read_backbone(folder)  # what is not used may be anything
    tensors[name].reshape(-1)[[0, 5]] = value
    save_file(tensors, folder / "model.safetensors")
    for _ in range(2):  # known fingerprints make no difference
        assert f"has 2 values in {name} that are not finite" in refusal(read_backbone, folder)


def test_a_folder_is_opened_by_its_values_only_where_its_config_ties_the_head(tmp_path):
    tensors, _ = decoder_folders.model("llama", tied=False)
    place = folders.write(tmp_path / "m", tensors, decoder_folders.config("llama", tie_word_embeddings=True))
    assert not open_folder(place).config.tied


def test_bytes_that_no_tensor_or_two_have_are_damage(folder):
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]

    def write(header, data):
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text + data)

    write(header, data)
    read_backbone(folder)
    write(header, data + b"1234")
    assert "has 4 bytes behind its last tensor" in refusal(read_backbone, folder)
    tensors = [name for name in header if name != "__metadata__"]
    ends = [name for name in tensors if header[name]["data_offsets"][1] == len(data)]
    shifted = {**header, ends[0]: {**header[ends[0]], "data_offsets": [n + 4 for n in header[ends[0]]["data_offsets"]]}}
    write(shifted, data + b"1234")
    assert "overlap or leave a gap" in refusal(read_backbone, folder)
