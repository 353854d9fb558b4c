"""Bad input gets one sentence that names the thing and the remedy, before anything is compiled, and exit code 2."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest

from jaxprefix.cli import main as cli
from jaxprefix.errors import UserError
from jaxprefix.training import loop
from jaxprefix.training.writers import JsonLines
from tests.training.watching import kept_steps
from tests.training.worlds import sentences, write_encoder, write_jsonl


@pytest.fixture
def refuse(world, tmp_path, capsys, monkeypatch):
    """Runs a config that must be refused; returns the sentence."""

    def no_step(*_, **__):
        raise AssertionError("the step was called")

    def run(fields=None, args=(), folder=None, command="train"):
        monkeypatch.setattr(loop, "make_train_step", lambda *_, **__: no_step)
        config = world.config_file(tmp_path / "config.py", folder or tmp_path / "run", **(fields or {}))
        assert cli.main([command, config, *args]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        sentence = said.err.strip()
        assert sentence.startswith("jaxprefix: ")
        assert sentence.endswith(".")
        assert "\n" not in sentence
        assert not (tmp_path / "run" / "adapter").exists()
        return sentence

    return run


def files(**paths):
    return f"jp.Classification(jp.Files(**{paths!r}), max_length=32)"


# Configs


CONFIGS = {
    "a method that is not there": (
        {"method": "jp.PTunigV2()"},
        ["PTunigV2", "nearest known name is 'PTuningV2'", "config.py"],
    ),
    "a task that is not there": ({"task": "jp.Classificaton()"}, ["nearest known name is 'Classification'"]),
    "a field that is not there": ({"bach_size": "3"}, ["'bach_size'", "the nearest field is 'batch_size'"]),
    "a field of a method": ({"method": "jp.PTuningV2(lenght=3)"}, ["'lenght'", "the nearest field is 'length'"]),
    "an old field of a method": (
        {"method": "jp.PTuningV2(leaves_window=True)"},
        ["PTuningV2 has no 'leaves_window', which is 'subject_to_window' now"],
    ),
    "a head of another task": ({"head": "jp.TokenClassifier()"}, ["TokenClassifier", "take SequenceClassifier"]),
    "a rate for gates that are not there": (
        {"optimizer": "jp.Optimizer(gate_learning_rate=1e-3)"},
        ["gate_learning_rate is set", "PTuningV2 has no gate"],
    ),
    "another number of labels": ({"head": "jp.SequenceClassifier(5)"}, ["num_labels is 5", "2 labels"]),
    "class weights for other labels": (
        {"head": "jp.SequenceClassifier(class_weights=(1.0, 2.0, 3.0))"},
        ["class_weights has 3 entries for 2 labels"],
    ),
    "no epochs": ({"epochs": "0.0"}, ["epochs = 0.0", "above 0"]),
    "negative steps": ({"steps": "-3"}, ["steps = -3"]),
    "a rate beyond 1": ({"hidden_dropout": "1.5"}, ["hidden_dropout = 1.5"]),
    "a learning rate that is none": ({"optimizer": "jp.Optimizer(float('nan'))"}, ["learning_rate = nan"]),
    "a negative seed": ({"seed": "-1"}, ["seed = -1"]),
    "a batch that does not divide": (
        {"accumulate": "5"},
        ["batch_size is 16", "5 accumulation steps", "multiple of 5"],
    ),
    "a mesh that does not fit": ({"mesh": "jp.MeshShape(data=3)"}, ["(3, 1, 1)", "1 devices"]),
    "a mesh of nothing": ({"mesh": "jp.MeshShape(data=0)"}, ["sizes of at least 1"]),
    "buckets that are too short": ({"buckets": "(4, 8)"}, ["longest bucket is 8", "add a bucket of"]),
    "more positions than there are": (
        {"method": "jp.PTuningV2(length=40)"},
        ["40 positions of virtual tokens", "the backbone has 48", "shorten"],
    ),
    "a layer that is not there": ({"method": "jp.PTuningV2(layers=(0, 7))"}, ["layers = (0, 7)", "0 to 0"]),
    "a masked-LM head that is not there": (
        {"task": "jp.MaskedLanguage(jp.Files({train!r}), max_length=32)"},
        ["has no leaves of MaskedLM", "FullFineTuning"],
    ),
    "a task's room for text": (
        {"task": "jp.Classification(jp.Files({train!r}), max_length=2)"},
        ["max_length 2", "raise it"],
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(refuse, world, name):
    fields, words = CONFIGS[name]
    sentence = refuse({key: value.replace("{train!r}", repr(world.source.train)) for key, value in fields.items()})
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def config(:\n", ["SyntaxError"]),
        ("x = 1\n", ["has no attribute 'config'"]),
        ("def config():\n    return 3\n", ["returns a int", "must return a jaxprefix.Run"]),
        ("import nothing_of_this_name\n", ["ModuleNotFoundError", "nothing_of_this_name"]),
    ],
)
def test_config_files(tmp_path, capsys, text, words):
    path = tmp_path / "config.py"
    path.write_text(text)
    assert cli.main(["train", str(path)]) == 2
    sentence = capsys.readouterr().err
    assert str(path) in sentence
    for word in words:
        assert word in sentence


def test_a_config_file_that_is_not_there(tmp_path, capsys):
    (tmp_path / "other.py").write_text("")
    assert cli.main(["train", str(tmp_path / "config.py")]) == 2
    sentence = capsys.readouterr().err
    assert f"there is no config file {tmp_path}/config.py" in sentence
    assert f"{tmp_path}/other.py" in sentence


# Data


def damaged_rows(name, tmp_path):
    """A training file with something wrong, and words that the sentence must have."""
    rows, path = sentences(8, 0), tmp_path / "bad.jsonl"
    if name == "missing column":
        rows[5] = {"txt": "a", "label": "good"}
        words = ["bad.jsonl:6 has no column 'text'", "'txt', 'label'", "Name the right one"]
    elif name == "nothing in a column":
        rows[2]["text"] = None
        words = ["bad.jsonl:3 has nothing in column 'text'"]
    elif name == "one class":
        rows = [{**row, "label": "good"} for row in rows]
        words = ["have one label (good)", "two classes"]
    elif name == "no rows":
        rows, words = [], ["bad.jsonl has no rows"]
    else:
        words = ["bad.jsonl:9 is not JSON", "correct the line"]
    write_jsonl(path, rows)
    if name == "not JSON":
        path.write_text(path.read_text() + '{"text": "cut o')
    return str(path), words


@pytest.mark.parametrize("name", ["missing column", "nothing in a column", "one class", "no rows", "not JSON"])
def test_rows(refuse, tmp_path, name):
    path, words = damaged_rows(name, tmp_path)
    sentence = refuse({"task": files(train=path)})
    for word in words:
        assert word in sentence


def test_a_label_that_the_training_rows_do_not_have(refuse, world, tmp_path):
    path = write_jsonl(tmp_path / "v.jsonl", [{"text": "a", "label": "good"}, {"text": "a", "label": "ugly"}])
    sentence = refuse({"task": files(train=world.source.train, validation=path)})
    assert "v.jsonl:2 has the label 'ugly' in column 'label', unknown to the label list (bad, good)" in sentence


def test_a_text_that_is_too_long_with_truncation_off(refuse, world):
    sentence = refuse(
        {"task": files(train=world.source.train).replace("max_length=32", "max_length=9, truncation=False")}
    )
    assert "tokens long and max_length is 9; raise max_length or set truncation to True." in sentence


def test_a_file_that_is_not_there(refuse, world):
    sentence = refuse({"task": files(train=world.source.train + "x.jsonl")})
    assert "does not exist" in sentence
    assert "train.jsonl" in sentence.split("holds")[1]


def test_a_file_of_another_kind(refuse, world, tmp_path):
    (tmp_path / "rows.txt").write_text("a")
    assert "use one of .jsonl, .csv, .parquet" in refuse({"task": files(train=str(tmp_path / "rows.txt"))})


def test_words_and_tags_that_do_not_match(refuse, tmp_path):
    path = write_jsonl(
        tmp_path / "t.jsonl", [{"tokens": ["a", "b"], "tags": ["O"]}, {"tokens": ["a"], "tags": ["B-X"]}]
    )
    sentence = refuse({"task": f"jp.Tagging(jp.Files({path!r}), max_length=32)"})
    assert "t.jsonl:1 has 2 words in 'tokens' and 1 tags in 'tags'" in sentence


# Backbones


def test_a_folder_that_is_no_model(refuse, tmp_path):
    (tmp_path / "empty").mkdir()
    sentence = refuse({"backbone": repr(str(tmp_path / "empty"))})
    assert "empty is no model folder: it has no config.json" in sentence


def test_an_architecture_that_is_not_supported(refuse, world, tmp_path):
    folder = Path(shutil.copytree(world.bert, tmp_path / "gpt"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "t5"}))
    sentence = refuse({"backbone": repr(str(folder))})
    assert "model_type = 't5'" in sentence
    assert "bert, roberta" in sentence


def test_a_backbone_without_a_tokenizer(refuse, world, tmp_path):
    folder = Path(shutil.copytree(world.bert, tmp_path / "mute"))
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in refuse({"backbone": repr(str(folder))})


def test_a_path_that_is_not_there(refuse):
    sentence = refuse({"backbone": "'./no/such/folder'"})
    assert "there is no folder ./no/such/folder" in sentence


def test_a_hub_name_without_network(refuse, monkeypatch):
    import huggingface_hub

    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    sentence = refuse({"backbone": "'somebody/some-encoder'"})
    assert "the hub cannot be reached" in sentence
    assert "'somebody/some-encoder'" in sentence
    assert "give a local folder" in sentence


# Runs that go on


@pytest.fixture(scope="module")
def begun(world, tmp_path_factory):
    """The folder of a run of 4 steps with checkpoints at 2 and 4, on a backbone of its own."""
    folder = tmp_path_factory.mktemp("begun")
    backbone = str(write_encoder(folder / "bert", layers=1))
    loop.train(world.run(folder / "run", backbone=backbone, steps=4, checkpoint_every=2))
    return folder


@pytest.fixture
def going_on(begun, tmp_path, refuse):
    """`refuse` on a copy of that run; checks that nothing there is lost."""
    shutil.copytree(begun / "run", tmp_path / "run-begun")
    shutil.copytree(begun / "bert", tmp_path / "bert")
    fields = {"backbone": repr(str(begun / "bert")), "steps": "4", "checkpoint_every": "2"}

    def run(changes, **options):
        before = contents(tmp_path / "run-begun")
        sentence = refuse({**fields, **changes}, folder=tmp_path / "run-begun", **options)
        assert contents(tmp_path / "run-begun") == before
        return sentence

    return run


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_another_config(going_on):
    sentence = going_on({"batch_size": "8", "optimizer": "jp.Optimizer(1e-3)"})
    assert "another config" in sentence
    assert "batch_size: 16 -> 8" in sentence
    assert "optimizer.learning_rate: 0.02 -> 0.001" in sentence
    assert "another folder" in sentence


def test_another_config_by_the_command_line(going_on):
    assert "method.length: 4 -> 5" in going_on({}, args=["--method.length", "5"])


def test_another_backbone_under_the_same_name(going_on, begun, tmp_path):
    write_encoder(begun / "bert", seed=5, layers=1)
    try:
        sentence = going_on({})
    finally:
        shutil.copytree(tmp_path / "bert", begun / "bert", dirs_exist_ok=True)
    assert "another backbone" in sentence
    assert "tensors differ" in sentence
    assert "put the former one back" in sentence


def test_fields_that_change_nothing_may_change(begun, world, tmp_path):
    shutil.copytree(begun / "run", tmp_path / "moved")
    run = world.run(tmp_path / "moved", backbone=str(begun / "bert"), steps=4, checkpoint_every=3, log_every=7)
    assert loop.train(run).steps == 4


def test_damage_everywhere_starts_anew_and_says_so(begun, world, tmp_path, caplog):
    """Nothing of the damaged checkpoints is removed."""
    shutil.copytree(begun / "run", tmp_path / "hurt")
    for step in kept_steps(tmp_path / "hurt"):
        (tmp_path / "hurt" / "checkpoints" / str(step) / "record.json").write_text("{")
    loop.train(world.run(tmp_path / "hurt", backbone=str(begun / "bert"), steps=4, checkpoint_every=2))
    assert "is damaged" in caplog.text
    assert {"2.damaged", "4.damaged"} <= set(os.listdir(tmp_path / "hurt" / "checkpoints"))
    adapters = [folder / "adapter" / "adapter.safetensors" for folder in (begun / "run", tmp_path / "hurt")]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()


# Disks


def test_a_place_that_cannot_be_written(refuse, tmp_path):
    (tmp_path / "file").write_text("mine")
    sentence = refuse(folder=tmp_path / "file" / "run")
    assert f"{tmp_path}/file/run" in sentence
    assert "choose another folder" in sentence
    assert (tmp_path / "file").read_text() == "mine"


def full(*_, **__):
    raise OSError(28, os.strerror(28))


def test_a_disk_that_is_full_at_a_checkpoint(world, tmp_path, capsys, monkeypatch):
    from jaxprefix.checkpoints import store

    config = world.config_file(tmp_path / "config.py", tmp_path / "run", checkpoint_every="2", steps="4")
    real, calls = store.start_saving, []

    def second(*args):
        calls.append(1)
        return real(*args) if len(calls) != 2 else full()

    monkeypatch.setattr(store, "start_saving", second)
    assert cli.main(["train", config]) == 2
    sentence = capsys.readouterr().err.strip().splitlines()[-1]
    assert sentence.startswith("jaxprefix: the checkpoint of step 4 could not be written")
    assert "No space left on device" in sentence
    assert "make room" in sentence
    assert kept_steps(tmp_path / "run") == [2]
    assert cli.main(["train", config]) == 0  # room was made


def test_a_disk_that_is_full_at_the_adapter(world, tmp_path, capsys, monkeypatch):
    from jaxprefix.checkpoints import adapter

    config = world.config_file(tmp_path / "config.py", tmp_path / "run", steps="4")
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "put_folder", full)
        assert cli.main(["train", config]) == 2
    assert "the adapter could not be written" in capsys.readouterr().err
    assert kept_steps(tmp_path / "run") == [4]
    assert not (tmp_path / "run" / "adapter").exists()
    assert cli.main(["train", config]) == 0
    stored = tmp_path / "run" / "adapter" / "adapter.safetensors"
    stored.write_bytes(b"older")
    with monkeypatch.context() as patch:
        patch.setattr(adapter, "_json", full)  # the tensors are written by then
        assert cli.main(["train", config]) == 2
    assert "No space left on device); what was there before is untouched" in capsys.readouterr().err
    assert stored.read_bytes() == b"older"
    assert not list((tmp_path / "run").glob("*.partial"))


def test_a_disk_that_is_full_at_the_metrics(tmp_path):
    writer = JsonLines(tmp_path / "metrics.jsonl", 0)
    writer.scalars(1, {"loss": 1.0})
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    writer._file.close()
    writer._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(UserError, match=r"metrics could not be written .*No space left on device"):
        writer.scalars(2, {"loss": 1.0})
    writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss": 1.0}\n'


def test_a_token_cache_that_cannot_be_written(refuse, tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    assert "JAXPREFIX_CACHE" in refuse()


@pytest.mark.parametrize("writer", ["tensorboard", "wandb"])
def test_a_writer_whose_extra_is_not_there(refuse, monkeypatch, writer):
    import sys

    monkeypatch.setitem(sys.modules, {"tensorboard": "tensorboardX"}.get(writer, writer), None)
    assert f"pip install 'jaxprefix[{writer}]'" in refuse({"writers": f"({writer!r},)"})


def test_runs_from_python_refuse_alike(world, tmp_path):
    run = world.run(tmp_path, accumulate=5)
    with pytest.raises(UserError, match="accumulation"):
        loop.train(run)
    with pytest.raises(UserError, match="epochs"):
        loop.train(dataclasses.replace(run, epochs=-1.0))
