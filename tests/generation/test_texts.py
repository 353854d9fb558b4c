"""From a run on prompts and targets to texts: adapters, the command, streams, and many adapters at once."""

import dataclasses
import io
import json

import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.cli.main import main
from jaxprefix.errors import UserError
from tests import tiny

PROMPTS = ["Karik | teaches | Fugar", "Rigar | known for | songs ; Melto | known for | tea", "Peto | owns | the book"]
TARGETS = ["Karik teaches Fugar.", "Rigar produces songs. Melto is known for tea.", "The book belongs to Peto."]
METHODS = {
    "inducer": jp.Inducer(key_rank=2, value_rank=2) + jp.LoRA(("q",), rank=2),
    "apt": jp.AdaptivePrefix(length=3),
    "prefix": jp.PTuningV2(length=5),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, shared_steps):
    """The adapter folder of a short run on the embedded decoder, and two more with drawn leaves, by method.

    The layers are a scan, which compiles sooner.
    """
    root = tmp_path_factory.mktemp("texts")
    rows = [{"prompt": p, "target": t} for p, t in zip(PROMPTS, TARGETS, strict=True)]
    rows.append({"prompt": PROMPTS[0], "target": "Fugar learns from Karik."})  # a second reference
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    place = str(root / "rows.jsonl")
    run = jp.Run(
        task=jp.ConditionalGeneration(jp.Files(place, place, place), max_prompt_length=32, max_target_length=32),
        backbone="tiny-decoder",
        method=METHODS["inducer"],
        optimizer=jp.Optimizer(learning_rate=3e-2),
        decoding=jp.Decoding(max_new_tokens=12),
        batch_size=4,
        steps=2,
        unroll=False,
        folder=str(root / "inducer"),
    )
    found = {"inducer": jp.train(run).adapter}
    one = jp.load_adapter(found["inducer"])
    for name in ("apt", "prefix"):
        model = dataclasses.replace(one.model, method=METHODS[name])
        trainable, frozen = tiny.drawn(model, one.backbone.tree)
        run = dataclasses.replace(one.run, method=METHODS[name])
        other = dataclasses.replace(one, model=model, trainable=trainable, frozen=frozen, run=run)
        found[name] = other.save(root / name)
    return found


@pytest.fixture(scope="module")
def adapter(folders):
    return jp.load_adapter(folders["inducer"])


def test_a_run_ends_with_the_scores_of_its_texts(adapter):
    found = adapter.metrics["test"]
    assert next(iter(found)) == "perplexity" and {"bleu", "chrf", "rougeL"} <= found.keys()
    again = adapter.evaluate(split="test")
    assert again == pytest.approx(found, abs=1e-4)


def test_texts_come_in_the_order_of_their_prompts_whatever_the_batch(adapter):
    together = adapter.generate(PROMPTS)
    assert together == [adapter.generate([prompt])[0] for prompt in PROMPTS]
    assert together == adapter.generate(PROMPTS, batch_size=1)  # more rows, the last batch filled up: the bank below
    assert adapter.generate([{"prompt": prompt} for prompt in PROMPTS]) == together
    assert adapter.generate([]) == [] and all(together)


def test_a_stream_is_the_text_in_pieces(adapter):
    pieces = list(adapter.stream(PROMPTS[1]))
    assert len(pieces) > 1 and "".join(pieces).strip() == adapter.generate([PROMPTS[1]])[0]


def test_the_command_prints_one_object_for_each_prompt(folders, adapter, capsys, monkeypatch):
    folder = str(folders["inducer"])
    assert main(["generate", folder, *PROMPTS]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == adapter.generate(PROMPTS)

    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps({"prompt": PROMPTS[0]}) + "\n"))
    assert main(["generate", folder, "--beams", "2", "--max-new-tokens", "5"]) == 0
    beam = jp.Decoding(max_new_tokens=5, beams=2)
    assert json.loads(capsys.readouterr().out)["text"] == adapter.generate(PROMPTS[:1], beam)[0]

    assert main(["generate", folder, "--stream", PROMPTS[1]]) == 0
    assert capsys.readouterr().out.strip() == adapter.generate(PROMPTS[1:2])[0]


def test_a_named_stop_token_ends_a_text_and_an_unknown_one_is_refused(folders, adapter, capsys):
    folder = str(folders["inducer"])
    assert main(["generate", folder, "--stop", "not one token", PROMPTS[0]]) == 2
    assert "the stop token 'not one token' is" in capsys.readouterr().err
    assert main(["generate", folder, "--stop", ".", "--max-new-tokens", "40", *PROMPTS]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert json.loads(line)["text"].count(".") <= 1


def test_too_many_new_tokens_are_refused(adapter):
    with pytest.raises(UserError, match=r"190 new ones .* need \d+ positions, but the backbone has 192"):
        adapter.generate(PROMPTS, jp.Decoding(max_new_tokens=190))


def test_an_adapter_without_text_says_so(adapter):
    labelled = dataclasses.replace(adapter, model=jp.TunedModel(adapter.model.backbone, adapter.model.method))
    labelled = dataclasses.replace(labelled, model=dataclasses.replace(labelled.model, head=jp.TokenClassifier(2)))
    with pytest.raises(UserError, match="writes no text"):
        labelled.generate(PROMPTS)
    with pytest.raises(UserError, match="predicts no labels"):
        adapter.predict(PROMPTS)


# Many adapters at once.


def test_every_row_of_a_bank_writes_what_its_adapter_writes_alone(folders):
    bank = jp.load_adapters(folders)
    prompts = [PROMPTS[1], *(f"{prompt} ; {prompt} ; {prompt}" for prompt in PROMPTS[::2])]  # all of one bucket
    rows = [prompt for prompt in prompts for _ in METHODS]
    names = list(METHODS) * len(prompts)
    alone = {name: jp.load_adapter(folder).generate(prompts) for name, folder in folders.items()}
    expected = [alone[name][prompts.index(row)] for row, name in zip(rows, names, strict=True)]
    assert bank.generate(rows, names, batch_size=4) == expected  # the last batch is filled up
    assert len(set(expected)) > len(prompts)  # the adapters differ
    bank.replace("apt", folders["prefix"])
    assert bank.generate([*prompts, prompts[0]], ["apt"] * 4) == [*alone["prefix"], alone["prefix"][0]]
    with pytest.raises(UserError, match="without a beam"):
        bank.generate(rows, names, jp.Decoding(beams=2))
    with pytest.raises(UserError, match="call generate for its texts"):
        bank(rows, names)


def test_logits_of_a_bank_are_those_of_the_vocabulary(folders):
    bank = jp.load_adapters(folders)
    ids = np.array([[5, 6, 7, 8], [9, 10, 11, 12]], np.int32)
    found = bank.logits({"input_ids": ids}, ["prefix", "inducer"])
    for row, name in enumerate(("prefix", "inducer")):
        one = jp.load_adapter(folders[name])
        expected = one.model.apply(one.trainable, one.frozen, {"input_ids": ids[row : row + 1]}).logits
        np.testing.assert_allclose(found[row], expected[0], atol=2e-4)
