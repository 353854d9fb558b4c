"""What is no encoder that can be read is refused in one sentence that names the thing and the remedy."""

import json
import re
from types import SimpleNamespace
from unittest.mock import Mock

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.numpy import save_file

from jaxprefix.errors import UserError
from jaxprefix.hf.loading import load_pretrained, read_backbone
from jaxprefix.hf.sources import find_folder, read_tokenizer
from jaxprefix.models.encoder_config import EncoderConfig
from tests.models import folders

WEIGHTS = "model.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    return folders.write(tmp_path / "m", folders.model()[0], folders.config())


def refusal(load, *arguments):
    with pytest.raises(UserError) as caught:
        load(*arguments)
    said = str(caught.value)
    assert "\n" not in said and said.endswith(".") and "; " in said, said
    return said


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "t5"}, r"model_type = 't5'.*bert, roberta"),
        ({"model_type": "distilbert"}, "'distilbert'.*not a supported architecture"),
        ({"model_type": ..., "architectures": ["AlbertModel"]}, "model_type = None"),
        ({"hidden_act": "quick_gelu"}, "hidden_act = 'quick_gelu'.*gelu_new"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"is_decoder": True}, "is_decoder"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_size": ..., "vocab_size": ...}, "lacks vocab_size, hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0"),
        ({"type_vocab_size": "two"}, "type_vocab_size = 'two'"),
        ({"pad_token_id": -1}, "pad_token_id = -1"),
        ({"layer_norm_eps": "1e-12"}, "layer_norm_eps = '1e-12'"),
        ({"num_attention_heads": 4}, "hidden_size = 6.*num_attention_heads = 4"),
        ({"model_type": "roberta", "pad_token_id": 8}, "max_position_embeddings = 9.*pad_token_id = 8"),
    ],
    ids=str,
)
def test_configs_of_something_else(folder, changes, named):
    (folder / "config.json").write_text(json.dumps(folders.config(**changes)))
    assert re.search(named, refusal(read_backbone, str(folder)))


@pytest.mark.parametrize("text", ["{", "[]", "\x00\xff"])
def test_damaged_config(folder, text):
    (folder / "config.json").write_text(text, encoding="latin-1")
    assert "config.json is damaged" in refusal(read_backbone, str(folder))


@pytest.mark.parametrize("architecture", ["BertModel", "RobertaForMaskedLM", None])
def test_old_configs_do_not_name_their_type(architecture):
    old = folders.config(model_type=..., architectures=[architecture] if architecture else ...)
    assert EncoderConfig.from_hf(old).model_type == ("roberta" if architecture == "RobertaForMaskedLM" else "bert")


def test_positions_that_roberta_can_use():
    assert EncoderConfig.from_hf(folders.config("bert")).usable_positions == 9
    assert EncoderConfig.from_hf(folders.config("roberta")).usable_positions == 7


def test_no_folder(tmp_path):
    assert "no/such/folder" in refusal(read_backbone, "no/such/folder")
    assert "there is no folder" in refusal(read_backbone, str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    assert "it has no config.json" in refusal(read_backbone, str(tmp_path / "empty"))


def test_a_file_instead_of_its_folder(folder):
    assert "give the folder" in refusal(read_backbone, str(folder / WEIGHTS))


def test_weights_in_another_format(folder):
    (folder / WEIGHTS).unlink()
    assert "holds no safetensors file" in refusal(read_backbone, str(folder))
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert re.search(r"pytorch_model\.bin.*save_pretrained", refusal(read_backbone, str(folder)))


def test_several_files_without_an_index(folder):
    (folder / WEIGHTS).rename(folder / "a.safetensors")
    (folder / "b.safetensors").write_bytes((folder / "a.safetensors").read_bytes())
    assert "2 safetensors files and no model.safetensors.index.json" in refusal(read_backbone, str(folder))


@pytest.mark.parametrize("kept", [0, 3, 8, 200, 0.5, -1])
def test_truncated_weights(folder, kept):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert re.search(r"model\.safetensors is damaged.*copy or download it again", refusal(read_backbone, str(folder)))


def with_header(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 100,
        with_header(b"not json"),
        with_header([]),
        with_header({"x": {"dtype": "F32", "shape": [2]}}),
        with_header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}),
        with_header({"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}),
        with_header({"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}),
        with_header({"x": {"dtype": "F32", "shape": [20], "data_offsets": [0, 80]}}),
        with_header({"x": 3}),
    ],
)
def test_corrupt_weights(folder, content):
    (folder / WEIGHTS).write_bytes(content)
    assert "model.safetensors is damaged" in refusal(read_backbone, str(folder))


def test_shards_and_their_index(tmp_path):
    folder = folders.write(tmp_path / "m", folders.model()[0], folders.config(), shards=3)
    index = folder / "model.safetensors.index.json"
    second = folder / "model-00002-of-00003.safetensors"
    content = second.read_bytes()
    second.unlink()
    assert "lacks model-00002-of-00003.safetensors" in refusal(read_backbone, str(folder))
    second.write_bytes((folder / "model-00001-of-00003.safetensors").read_bytes())
    assert re.search(r"00002.*is damaged: it lacks .*index", refusal(read_backbone, str(folder)))
    second.write_bytes(content)
    read_backbone(str(folder))
    for text in (
        "{",
        "{}",
        '{"weight_map": ["x"]}',
        '{"weight_map": {"x": "../y.safetensors"}}',
        '{"weight_map": {"x": 1}}',
    ):
        index.write_text(text)
        assert "index.json is damaged" in refusal(read_backbone, str(folder))


def test_weights_that_are_not_the_configs(folder):
    for changes, named in [
        ({"vocab_size": 12}, r"word_embeddings\.weight with shape \(11, 6\).*\(12, 6\)"),
        ({"intermediate_size": 20}, r"layer\.0\.intermediate\.dense\.weight with shape \(10, 6\).*\(20, 6\)"),
        ({"num_hidden_layers": 5}, r"lack encoder\.layer\.3\.attention\.self\.query\.weight.* and 28 more"),
    ]:
        (folder / "config.json").write_text(json.dumps(folders.config(**changes)))
        assert re.search(named, refusal(read_backbone, str(folder)))


def test_a_missing_tensor_is_named(folder):
    tensors, _ = folders.model()
    del tensors["encoder.layer.1.output.LayerNorm.bias"]
    save_file({name: np.ascontiguousarray(value) for name, value in tensors.items()}, folder / WEIGHTS)
    assert "lack encoder.layer.1.output.LayerNorm.bias, which" in refusal(read_backbone, str(folder))


def test_files_of_no_encoder_or_of_two(folder):
    first, second = folders.model(prefix="question.")[0], folders.model(prefix="context.")[0]
    folders.write(folder, first | second, folders.config())
    assert "2 encoders ('context.', 'question.')" in refusal(read_backbone, str(folder))
    folders.write(folder, {"x": np.zeros(3)}, folders.config())
    assert "no encoder" in refusal(read_backbone, str(folder))


def test_integers_in_place_of_weights(folder):
    tensors, _ = folders.model(dtype=np.int8)
    folders.write(folder, tensors, folders.config())
    assert re.search(r"embeddings\.weight as I8.*F32", refusal(read_backbone, str(folder)))


def test_no_dtype_of_weights(folder):
    assert "as int8" in refusal(lambda: read_backbone(folder, dtype="int8"))


def test_tokenizers(folder):
    assert "has no tokenizer" in refusal(read_tokenizer, str(folder))  # transformers makes an empty one up
    assert load_pretrained(str(folder)).tokenizer is None
    (folder / "tokenizer.model").write_bytes(b"x")
    assert "tokenizer.model alone" in refusal(read_tokenizer, str(folder))
    (folder / "tokenizer.json").write_text("{")
    assert re.search("tokenizer in .* cannot be read", refusal(read_tokenizer, str(folder)))
    folders.write_tokenizer(folder, words=[f"word{i}" for i in range(folders.V)])
    assert "has 16 entries, but the word table only 11" in refusal(load_pretrained, str(folder))


def hub(monkeypatch, answer):
    calls = []

    def snapshot_download(name, **options):
        calls.append(SimpleNamespace(name=name, **options))
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


def test_a_hub_name_is_downloaded_without_what_is_not_needed(monkeypatch, folder):
    calls = hub(monkeypatch, folder)
    assert find_folder("some-one/some.model") == folder
    (call,) = calls
    files = ["config.json", WEIGHTS, "model-00001-of-00002.safetensors", "model.safetensors.index.json", "vocab.txt"]
    others = ["pytorch_model.bin", "onnx/model.safetensors", "README.md", "tf_model.h5", "1_Pooling/config.json"]
    kept = huggingface_hub.utils.filter_repo_objects(
        files + others, allow_patterns=call.allow_patterns, ignore_patterns=call.ignore_patterns
    )
    assert call.name == "some-one/some.model" and list(kept) == files


def test_no_network_and_no_such_repository(monkeypatch):
    hub(monkeypatch, LocalEntryNotFoundError("Got: ConnectError\nand more"))
    assert re.search(
        "no local folder 'some-bert'.*cannot be reached.*tiny-encoder", refusal(read_backbone, "some-bert")
    )
    hub(monkeypatch, ConnectionError("refused"))
    assert "cannot be reached" in refusal(read_backbone, "some-bert")
    hub(monkeypatch, HfHubHTTPError("503 too busy\nagain", response=Mock()))
    assert "503 too busy" in refusal(read_backbone, "some-bert")
    hub(monkeypatch, RepositoryNotFoundError("404", response=Mock()))
    assert "a repository of the hub is called 'some/bert'" in refusal(read_backbone, "some/bert")


def test_offline_the_hubs_cache_is_enough(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--some--bert"
    tensors, _ = folders.model()
    written = folders.write(repository / "snapshots" / ("0" * 40), tensors, folders.config())
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert read_backbone("some/bert")[2].path == written
    assert "cannot be reached" in refusal(read_backbone, "some/other")


def test_an_embedded_encoder_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    assert "lacks the embedded encoder 'tiny-encoder'" in refusal(read_backbone, "tiny-encoder")
    folders.write(tmp_path / "pretrained" / "tiny-encoder", folders.model()[0], folders.config())
    assert read_backbone("tiny-encoder")[2].source == "tiny-encoder"
