"""(IA)3 against live PEFT: ours opened there, its folders opened here, with its own defaults, to the same logits."""

import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxprefix as jp
from tests.exchange.cases import backbone, batch, logits, own_adapter

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
encoders = pytest.importorskip("tests.exchange.make_fixtures")
decoders = pytest.importorskip("tests.exchange.make_decoder_fixtures")

METHODS = {
    "published": jp.IA3(),
    "PEFT's": jp.IA3(("k", "v"), ("o", "down")),
    "others": jp.IA3(("q", "v", "up"), (), layers=(1,)),
}
HEADS = {"classification": jp.SequenceClassifier(pooling="trained_pooler"), "tagging": jp.TokenClassifier()}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("decoders")
    return {kind: str(decoders.write_backbone(kind, str(root / kind))) for kind in decoders.KINDS}


def scaled(base, task_type, **settings):
    """A PEFT model whose vectors and head are random; without settings with PEFT's defaults."""
    model = peft.get_peft_model(base, peft.IA3Config(task_type=task_type, **settings)).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ia3_l" in name:
                parameter.normal_(1, 0.5, generator=generator)
            elif parameter.requires_grad:
                parameter.normal_(0, 0.5, generator=generator)
    return model


def both_ways(model, theirs, compare, source, base, folder):
    """Imported, the same logits; exported again, the same logits and, saved by PEFT once more, the same bits."""
    model.save_pretrained(folder / "theirs")
    adapter = jp.import_peft(folder / "theirs", backbone=source)
    compare(adapter, theirs)
    jp.export_peft(adapter, folder / "ours")
    again = peft.PeftModel.from_pretrained(base, folder / "ours").eval()
    compare(adapter, again)
    again.save_pretrained(folder / "again")
    first, last = (load_file(folder / name / "adapter_model.safetensors") for name in ("theirs", "again"))
    assert first.keys() == last.keys()
    assert all(tensor.tobytes() == last[key].tobytes() for key, tensor in first.items())
    return adapter


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_pefts_defaults_on_encoders(kind, task, tmp_path):
    def base():
        return encoders.base_model(kind, task, backbone(kind))

    def compare(adapter, model):
        theirs = encoders.logits_of(model, batch(kind))
        np.testing.assert_allclose(logits(adapter, batch(kind)), theirs, atol=1e-5, rtol=0)

    saved = {"modules_to_save": ["pooler"]} if (kind, task) == ("bert", "classification") else {}
    model = scaled(base(), encoders.TASKS[task][1], **saved)
    adapter = both_ways(model, model, compare, backbone(kind), base(), tmp_path)
    assert (set(adapter.run.method.outputs), set(adapter.run.method.inputs)) == ({"k", "v"}, {"o", "down"})


@pytest.mark.parametrize("task", ["causal", "classification"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "mistral", "gemma3_text"])
def test_pefts_defaults_on_decoders(kind, task, folders, tmp_path):
    inputs = decoders.inputs(seed=1)
    keep = np.ones(len(inputs["attention_mask"]), bool) if task == "classification" else inputs["attention_mask"]

    def compare(adapter, model):
        theirs = decoders.logits_of(model, inputs)
        np.testing.assert_allclose(logits(adapter, inputs)[keep], theirs[keep], atol=1e-4, rtol=0)

    model = scaled(decoders.base_model(task, folders[kind]), decoders.TASKS[task][1])
    both_ways(model, model, compare, folders[kind], decoders.base_model(task, folders[kind]), tmp_path)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_peft_opens_what_is_exported(kind, method, tmp_path):
    adapter = own_adapter(kind, METHODS[method], HEADS["classification"])
    jp.export_peft(adapter, tmp_path / "peft")
    base = encoders.base_model(kind, "classification", backbone(kind))
    model = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    vectors = {name.split(".ia3_l")[0] for name, _ in model.named_parameters() if "ia3_l" in name}
    assert len(vectors) == sum(".ia3_l" in name for name in load_file(tmp_path / "peft" / "adapter_model.safetensors"))
    theirs = encoders.logits_of(model, batch(kind))
    np.testing.assert_allclose(logits(adapter, batch(kind)), theirs, atol=1e-5, rtol=0)
