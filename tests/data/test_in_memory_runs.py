"""Runs on rows in memory: those of a file to the bit, resumed by digest, and stored without a row."""

import dataclasses
import json

import pytest

import jaxprefix as jp
from jaxprefix.adapters import load_adapter
from jaxprefix.cli import main as cli
from jaxprefix.errors import UserError
from jaxprefix.training import setup
from tests.data.conftest import write_rows
from tests.data.containers import Dataset, Frame

WORDS = {"yes": ["good", "bright", "kind", "sweet", "calm"], "no": ["bad", "dark", "cruel", "bitter", "loud"]}
ROWS = [{"text": f"it was {WORDS[label][i % 5]}", "label": label} for i in range(6) for label in WORDS]
HELD_OUT = [{"text": f"it is {word}", "label": label} for label, words in WORDS.items() for word in words[:2]]


def run_on(source, folder, **fields):
    task = jp.Classification(source, max_length=16)
    method = jp.PTuningV2(length=2)
    fields |= {"hidden_dropout": 0.0, "attention_dropout": 0.0, "unroll": False}  # compiles sooner
    return jp.Run(task, method=method, steps=2, batch_size=4, buckets=(16,), folder=str(folder), **fields)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shared_steps):
    """The same run on a file and on rows, and the folders."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXPREFIX_CACHE", str(folder / "cache"))
        train, test = (write_rows(folder / f"{n}.jsonl", rows) for n, rows in (("train", ROWS), ("test", HELD_OUT)))
        of_files = jp.train(run_on(jp.Files(train, test=test), folder / "files"))
        of_rows = jp.train(run_on(jp.InMemory(train=Frame(ROWS), test=Dataset(HELD_OUT)), folder / "rows"))
    return of_files, of_rows, test


def test_rows_in_memory_train_as_those_of_a_file_to_the_bit(trained):
    of_files, of_rows, _ = trained
    tensors = [(result.adapter / "adapter.safetensors").read_bytes() for result in (of_files, of_rows)]
    assert tensors[0] == tensors[1] and of_files.metrics == of_rows.metrics


def test_no_row_is_in_the_folder_of_a_run(trained):
    of_rows = trained[1]
    files = [path for path in of_rows.folder.rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert not any(row["text"].encode() in content for row in ROWS + HELD_OUT), path
    card = (of_rows.adapter / "README.md").read_text()
    assert "| task.source.train.rows | 12 |" in card and "task.source.train.digest" in card


def test_a_run_resumes_with_the_same_rows_and_no_others(trained):
    _, of_rows, _ = trained
    again = jp.train(run_on(jp.InMemory(train=ROWS, test=tuple(HELD_OUT)), of_rows.folder))
    assert again.metrics == of_rows.metrics and again.steps == 2
    for train in (ROWS[::-1], [*ROWS[:-1], {"text": "it was bad", "label": "yes"}], ROWS[2:]):
        with pytest.raises(UserError, match=r"holds a run with another config \(task.source.train.(rows|digest): "):
            jp.train(run_on(jp.InMemory(train=train, test=HELD_OUT), of_rows.folder))
    stored = load_adapter(of_rows.adapter).run
    with pytest.raises(UserError, match=r"^The rows of the train split \(12 of label, text\) were in memory and are"):
        jp.train(stored)


def test_a_loaded_adapter_is_evaluated_on_rows_that_are_given(trained, tmp_path):
    _, of_rows, test = trained
    adapter = load_adapter(of_rows.adapter)
    with pytest.raises(UserError, match=r"^The rows of the test split \(4 of label, text\).* evaluate\(rows=\.\.\.\)"):
        adapter.evaluate()
    with pytest.raises(UserError, match=r"evaluate is given a file and rows; give one of them"):
        adapter.evaluate(file=test, rows=HELD_OUT)
    expected = pytest.approx(of_rows.metrics["test"], abs=1e-6)
    assert adapter.evaluate(rows=Frame(HELD_OUT)) == expected
    turned = [{**row, "label": {"yes": "no", "no": "yes"}[row["label"]]} for row in HELD_OUT]
    accuracy = of_rows.metrics["test"]["accuracy"]
    assert adapter.evaluate(rows=turned)["accuracy"] == pytest.approx(1 - accuracy)
    with pytest.raises(UserError, match="InMemory, split test has no rows"):
        adapter.evaluate(rows=[])
    saved = load_adapter(adapter.save(tmp_path / "saved"))
    assert saved.run == adapter.run == run_on(jp.InMemory(train=ROWS, test=HELD_OUT), of_rows.folder)


def test_the_command_names_the_option_for_a_file(trained, capsys):
    _, of_rows, test = trained
    assert cli.main(["evaluate", str(of_rows.adapter)]) == 2
    assert "give rows again: " in (said := capsys.readouterr().err) and "--file of `jaxprefix evaluate`" in said
    assert cli.main(["evaluate", str(of_rows.adapter), "--file", test]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == pytest.approx(of_rows.metrics["test"], abs=1e-6)


def test_processes_compare_the_digests_of_their_rows(monkeypatch, tmp_path):
    """What processes compare where they first meet (`test_processes.py` has several that differ there)."""

    class Met(Exception):
        pass

    words = []

    def barrier(name, word):
        words.append(word)
        raise Met

    monkeypatch.setattr(setup, "barrier", barrier)
    for train in (ROWS, Frame(ROWS), ROWS[::-1]):
        with pytest.raises(Met):
            setup.set_up(run_on(jp.InMemory(train=train), tmp_path / "run"))
    assert words[0] == words[1] != words[2]


def test_fields_are_overridden_beside_rows(tmp_path):
    from jaxprefix.cli.configs import load_config, parse_run

    config = tmp_path / "config.py"
    config.write_text(
        "import jaxprefix as jp\n\n\ndef config():\n    rows = [{'text': 'a', 'label': 'b'}]\n"
        "    return jp.Run(jp.Classification(jp.InMemory(train=rows, test=rows)))\n"
    )
    before = load_config(str(config))
    run = parse_run([str(config), "--steps", "3", "--task.max-length", "24"], "jaxprefix train")
    changed = dataclasses.replace(before, steps=3, task=dataclasses.replace(before.task, max_length=24))
    assert run == changed and len(run.task.source.open("test")) == 1
    with pytest.raises(SystemExit):
        parse_run([str(config), "--task.source.train", "other.jsonl"], "jaxprefix train")
