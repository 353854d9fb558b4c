"""Decoders against live PEFT: its folders opened here, ours opened there, to the same logits."""

import dataclasses

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import jaxprefix as jp
from jaxprefix.adapters.adapter import Adapter
from jaxprefix.exchange.converted import NO_ROWS, read_base
from jaxprefix.methods import PrefixTuning, PTuningV2
from jaxprefix.models.heads import CausalLM
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier, TokenClassifier
from jaxprefix.training.config import Run
from tests.exchange.cases import logits

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
made = pytest.importorskip("tests.exchange.make_decoder_fixtures")

KINDS = {"causal": jp.CausalLanguage, "classification": jp.Classification, "tagging": jp.Tagging}
HEAD_OF = {
    "causal": CausalLM(),
    "classification": SequenceClassifier(pooling="last", bias=False),
    "tagging": TokenClassifier(),
}
PAIRS = [(kind, task) for kind in made.KINDS for task in made.TASKS if (kind, task) != ("gemma3_text", "tagging")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("decoders")
    return {kind: str(made.write_backbone(kind, str(root / kind))) for kind in made.KINDS}


def close(found, wanted, mask, task, atol=1e-4):
    keep = np.ones(len(mask), bool) if task == "classification" else mask
    np.testing.assert_allclose(found[keep], wanted[keep], atol=atol, rtol=0)


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_a_folder_of_pefts_gives_the_same_logits_here(kind, task, folders, tmp_path):
    """Lengths below, at and above the window of 5; rows are longer than that."""
    batch = made.inputs(seed=1)
    for length, mlp in ((3, True),) if task != "causal" else ((3, True), (1, False), (5, False), (8, False)):
        model = made.prefixed(task, mlp, folders[kind], length)
        model.save_pretrained(tmp_path / str(length))
        adapter = jp.import_peft(tmp_path / str(length), backbone=folders[kind])
        close(logits(adapter, batch), made.logits_of(model, batch), batch["attention_mask"], task)
        assert adapter.run.method.subject_to_window == bool(made.KINDS[kind].get("sliding_window"))


def own(folder, task, method, seed=0):
    base = read_base(folder)
    head = HEAD_OF[task]
    run = Run(KINDS[task](NO_ROWS), backbone=folder, method=method, head=head)
    labels = () if task == "causal" else ("no", "maybe", "yes")
    model = TunedModel(base.module, method, run.resolve_head(len(labels)))
    trainable, frozen = model.init(jax.random.key(seed), base.tree)
    random = np.random.default_rng(seed)
    trainable = jax.tree.map(lambda leaf: leaf + 0.3 * random.standard_normal(leaf.shape).astype(np.float32), trainable)
    return Adapter(model, trainable, frozen, base, run, {"labels": list(labels)} if labels else {}, {})


METHODS = {
    "direct": PTuningV2(length=4, subject_to_window=True),
    "mlp": PrefixTuning(length=4, mlp_width=5, subject_to_window=True),
    "unshifted": PTuningV2(length=4, position_offset=False, subject_to_window=True),
    "unshifted mlp": PTuningV2(length=4, mlp_width=5, position_offset=2, subject_to_window=True),
}


@pytest.mark.parametrize(("kind", "task"), PAIRS)
def test_peft_opens_what_is_exported(kind, task, folders, tmp_path):
    batch = made.inputs(seed=2)
    rotated = task == "causal" and kind != "gpt2"
    for name, method in METHODS.items():
        if name.startswith("unshifted") and not rotated:
            continue
        adapter = own(folders[kind], task, method)
        jp.export_peft(adapter, tmp_path / name)
        model = peft.PeftModel.from_pretrained(made.base_model(task, folders[kind]), tmp_path / name).eval()
        close(logits(adapter, batch), made.logits_of(model, batch), batch["attention_mask"], task)
        model.save_pretrained(tmp_path / "again" / name)
        tensors = [load_file(at / "adapter_model.safetensors") for at in (tmp_path / name, tmp_path / "again" / name)]
        assert tensors[0].keys() == tensors[1].keys()
        for key, tensor in tensors[0].items():
            assert tensor.tobytes() == tensors[1][key].tobytes(), key


def test_padding_on_the_left_is_pefts_too(folders, tmp_path):
    """Where layers have windows, PEFT counts the columns of padding, so that each row is compared with it unpadded."""
    batch = made.inputs(seed=3)
    batch = {name: value[:, ::-1].copy() for name, value in batch.items()}
    for kind in ("gpt2", "llama", "mistral", "gemma3_text"):
        model = made.prefixed("causal", False, folders[kind])
        model.save_pretrained(tmp_path / kind)
        adapter = jp.import_peft(tmp_path / kind, backbone=folders[kind])
        ids, mask = (torch.tensor(batch[name]).long() for name in ("input_ids", "attention_mask"))
        found = logits(adapter, batch)
        with torch.no_grad():
            if kind in ("gpt2", "llama"):
                positions = torch.clamp(mask.cumsum(1) - 1, min=0)
                theirs = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.numpy()
                close(found, theirs, batch["attention_mask"], "causal")
                continue
            for row, real in enumerate(batch["attention_mask"]):
                theirs = model(input_ids=ids[row : row + 1, mask[row].bool()]).logits.numpy()
                close(found[row : row + 1, real], theirs, np.ones((1, real.sum()), bool), "causal")


def test_what_pefts_generation_writes(folders, tmp_path):
    batch = {name: value[:1] for name, value in made.inputs(seed=4).items()}
    for kind in ("gpt2", "llama"):
        model = made.prefixed("causal", False, folders[kind])
        model.save_pretrained(tmp_path / kind)
        adapter = jp.import_peft(tmp_path / kind, backbone=folders[kind])
        ids, mask = (torch.tensor(batch[name]).long() for name in ("input_ids", "attention_mask"))
        new = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        decoding = jp.Decoding(max_new_tokens=6)
        arrays = {name: jax.numpy.asarray(value) for name, value in batch.items()}
        ours = jp.generate(adapter.model, adapter.trainable, adapter.frozen, arrays, decoding).tokens
        np.testing.assert_array_equal(np.asarray(ours), new[:, made.TOKENS :].numpy())


@pytest.mark.parametrize("case", made.CASES)
def test_the_fixtures_are_still_what_peft_gives(case):
    base = made.base_model(case[1], made.FOLDER / case[0])
    model = peft.PeftModel.from_pretrained(base, made.FOLDER / made.name_of(*case)).eval()
    stored = np.load(made.FOLDER / "expected.npz")
    np.testing.assert_allclose(made.logits_of(model, made.inputs()), stored[made.name_of(*case)], atol=1e-6, rtol=0)


def test_a_prefix_that_stays_in_the_window_is_another_function(folders):
    """The window of 5 has room for four virtual tokens and the first real one."""
    adapter = own(folders["mistral"], "causal", METHODS["direct"])
    staying = dataclasses.replace(adapter.model, method=PTuningV2(length=4))
    other = dataclasses.replace(adapter, model=staying)
    difference = np.abs(logits(adapter, made.inputs()) - logits(other, made.inputs()))
    assert difference[0, :1].max() < 1e-6 < 1e-2 < difference[0].max()
