"""The command line: help, overrides by name, and what each command prints."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxprefix.cli import configs
from jaxprefix.cli import main as cli
from jaxprefix.methods import PTuningV2
from jaxprefix.tasks import TokenClassifier
from jaxprefix.training.loop import train
from jaxprefix.training.optimizer import Optimizer
from tests.exchange.cases import drawn_adapter
from tests.training.conftest import world  # noqa: F401
from tests.training.worlds import sentences

ROOT = Path(__file__).parents[1]


@pytest.fixture
def config(world, tmp_path):  # noqa: F811
    return world.config_file(tmp_path / "config.py", tmp_path / "run")


@pytest.fixture(scope="module")
def tuned(world, tmp_path_factory):  # noqa: F811
    """A finished run."""
    return train(world.run(tmp_path_factory.mktemp("tuned"), epochs=4.0, optimizer=Optimizer(5e-2), evaluate_every=12))


@pytest.fixture(scope="module")
def tagger(world, tmp_path_factory):  # noqa: F811
    """The folder of an adapter with random leaves."""
    facts = {"labels": ["O", "B-NAME"]}
    drawn = drawn_adapter(world.bert, PTuningV2(length=2), TokenClassifier(), world.tagging(), facts)
    return drawn.save(tmp_path_factory.mktemp("tagger") / "adapter")


def helped(capsys, args):
    with pytest.raises(SystemExit) as exit:
        cli.main(args)
    assert exit.value.code == 0
    return re.sub(r"[\s│|]+", " ", capsys.readouterr().out)


# Help


def test_help_names_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in ("train", "evaluate", "predict", "describe", "compare", "check", "gates", "export", "import"):
        assert re.search(rf"^  {command} \w+", out, re.MULTILINE)
    assert cli.main([]) == 2


def test_the_help_of_a_config_lists_the_fields_with_their_meaning(capsys, config):
    out = helped(capsys, ["train", config, "--help"])
    for name, meaning in {
        "--epochs": "passes over the training rows",
        "--batch-size": "rows of one update",
        "--patience": "evaluations without a better metric",
        "--label-smoothing": "share of the target",
        "--optimizer.learning-rate": "the highest rate",
        "--optimizer.clip": "largest global norm",
        "--method.length": "virtual tokens per layer",
        "--method.position-offset": "shift the positions",
        "--task.max-length": "Longest input in tokens",
        "--task.source.train": "The file to train on",
        "--mesh.tp": "shares of the heads",
        "--folder": "where checkpoints, metrics and the adapter go",
    }.items():
        assert name in out
        assert meaning in out, name
    assert "0.02" in out  # the default is the file's, not the class's


@pytest.mark.parametrize("command", ["train", "describe"])
def test_help_without_a_config(capsys, command):
    assert "CONFIG.py" in helped(capsys, [command, "--help"])


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_help_of_the_commands_on_adapters(capsys, command):
    assert "the adapter folder of a finished run" in helped(capsys, [command, "--help"])


def test_a_command_that_is_not_there(capsys):
    assert cli.main(["trian", "x.py"]) == 2
    assert "no command 'trian' (did you mean train?); the commands are train, evaluate" in capsys.readouterr().err


# Overrides


def test_fields_are_overridden_by_name(config):
    args = [
        "--optimizer.learning-rate",
        "0.5",
        "--task.max-length",
        "24",
        "--buckets",
        "8",
        "24",
        "--method.length",
        "7",
    ]
    args += ["--patience", "3", "--method.position-offset", "False", "--optimizer.clip", "None"]
    args += ["--precision", "bfloat16", "--backbone", "bert-large-cased"]
    run = configs.parse_run([config, *args], "jaxprefix train")
    before = configs.load_config(config)
    assert run.optimizer.learning_rate == 0.5
    assert run.optimizer.clip is None
    assert run.optimizer.schedule == before.optimizer.schedule
    assert (run.task.max_length, run.task.source) == (24, before.task.source)
    assert run.buckets == (8, 24)
    assert (run.method.length, run.method.position_offset) == (7, False)
    assert (run.patience, run.precision, run.backbone) == (3, "bfloat16", "bert-large-cased")
    assert type(run) is type(before)
    assert configs.parse_run([config], "jaxprefix train") == before


@pytest.mark.parametrize("spelling", ["--batch-size", "--batch_size"])
def test_hyphens_and_underscores_are_the_same(config, spelling):
    assert configs.parse_run([config, spelling, "48"], "jaxprefix train").batch_size == 48


def test_a_whole_number_will_do_for_a_real_one(config):
    assert configs.parse_run([config, "--epochs", "3", "--optimizer.learning-rate", "1"], "jaxprefix train").epochs == 3


def test_an_option_may_be_given_where_the_file_has_none(config):
    run = configs.parse_run([config, "--hidden-dropout", "0.2", "--unroll", "False"], "jaxprefix train")
    assert (run.hidden_dropout, run.unroll) == (0.2, False)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--optimizer.learning-rat", "1"], ["--optimizer.learning-rat", "--optimizer.learning-rate"]),
        (["--bach-size", "1"], ["--bach-size", "--batch-size"]),
        (["--batch-size", "many"], ["many", "batch-size"]),
        (["--optimizer.schedule", "linea"], ["linear", "cosine"]),
    ],
)
def test_a_typo_is_answered_with_the_nearest_field(capsys, config, args, words):
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", config, *args])
    assert exit.value.code == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said


# Commands


def test_train_leaves_an_adapter_and_train_py_is_the_same(config, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", config, "--steps", "2", "--writers", "--log_every", "1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stderr  # plain lines where there is no terminal
    assert "\x1b" not in done.stderr
    assert "validation: accuracy" in done.stderr
    assert (tmp_path / "run" / "adapter" / "adapter.json").is_file()
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").open()] == [1, 2, 2]
    assert cli.main(["train", config, "--steps", "2"]) == 0  # it is finished


def test_a_run_that_fails_exits_with_1(config, capsys, tmp_path):
    assert cli.main(["train", config, "--optimizer.learning-rate", "1e37", "--optimizer.schedule", "constant"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("jaxprefix: the ")
    assert "learning rate" in said


def test_evaluate_prints_the_metrics(capsys, tuned, world):  # noqa: F811
    assert cli.main(["evaluate", str(tuned.adapter)]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(tuned.metrics["test"], abs=1e-6)
    assert cli.main(["evaluate", str(tuned.adapter), "--split", "validation", "--batch-size", "5"]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(tuned.metrics["validation"], abs=1e-6)
    assert cli.main(["evaluate", str(tuned.adapter), "--file", world.source.test]) == 0
    assert json.loads(capsys.readouterr().out) == pytest.approx(tuned.metrics["test"], abs=1e-6)


def test_predict_answers_texts_one_line_each(capsys, tuned, monkeypatch):
    texts = [row["text"] for row in sentences(5, 9)]
    assert cli.main(["predict", str(tuned.adapter), *texts]) == 0
    given = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(given) == 5
    assert all(set(one) == {"label", "score", "scores"} for one in given)
    assert {one["label"] for one in given} <= {"good", "bad"}
    lines = "\n".join([*texts[:2], *(json.dumps({"text": text, "id": 3}) for text in texts[2:])])
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    assert cli.main(["predict", str(tuned.adapter), "--batch-size", "2"]) == 0
    read = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["label"] for one in read] == [one["label"] for one in given]
    assert [one["score"] for one in read] == pytest.approx([one["score"] for one in given], abs=1e-6)


def test_predict_tags_words(capsys, tagger):
    assert cli.main(["predict", str(tagger), "alice saw paris"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["words"] == ["alice", "saw", "paris"]
    assert set(found["labels"]) <= {"O", "B-NAME"}


def test_predict_with_nothing_to_answer(capsys, tuned, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert cli.main(["predict", str(tuned.adapter)]) == 0
    assert capsys.readouterr().out == ""


def test_describe_tells_what_is_trained(capsys, config, world):  # noqa: F811
    assert cli.main(["describe", config]) == 0
    out = capsys.readouterr().out
    assert "PTuningV2" in out
    assert "322" in re.sub(r"[,_]", "", out)  # 4 x 2 x 32 of the prefix, 33 x 2 of the head
    assert "method/keys" in out
    assert "attention" in out.lower()


def test_describe_counts_the_parts_beside_what_is_in_print(capsys, world, tmp_path):  # noqa: F811
    method = "jp.published.INDUCER_PARALLEL_ROBERTA_BASE.method"
    config = world.config_file(tmp_path / "config.py", tmp_path / "run", method=method)
    assert cli.main(["describe", config]) == 0
    out = re.sub(r"[\s]+", " ", capsys.readouterr().out)
    # a layer of width 32 and 4 heads: r (D + H + H D) + D and r (2 D + H) + D, twice 2 D r, 2 D r + r + D
    inducer, lora, adapter = 2 * (32 + 4 + 128) + 32 + 2 * 68 + 32, 256, 2 * 32 * 12 + 12 + 32
    for name, size in {"inducer": inducer, "lora": lora, "parallel_adapter": adapter, "head": 66}.items():
        assert f"{name} {size:,} " in out
    assert f"method {inducer + lora + adapter:,} " in out
    assert "0.48 % in print: INDUCER_PARALLEL_ROBERTA_BASE on roberta-base" in out


ADAPTERS = {
    "no folder": ([], ["nowhere", "not an adapter folder"]),
    "another backbone": (["--backbone", "{roberta}"], ["was trained on", "other weights", "name the folder"]),
    "no backbone": (["--backbone", "./gone"], ["there is no folder ./gone"]),
}


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_adapters_that_cannot_be_opened(capsys, tuned, world, tmp_path, name, command):  # noqa: F811
    args, words = ADAPTERS[name]
    folder = tmp_path / "nowhere" if name == "no folder" else tuned.adapter
    asked = ["tea"] if command == "predict" else []
    assert cli.main([command, str(folder), *asked, *(arg.format(roberta=world.roberta) for arg in args)]) == 2
    said = capsys.readouterr().err
    for word in words:
        assert word in said


def test_rows_that_cannot_be_answered(capsys, tuned):
    assert cli.main(["predict", str(tuned.adapter), '{"text": "a']) == 2
    assert "begins like JSON but is not" in capsys.readouterr().err
    assert cli.main(["predict", str(tuned.adapter), '{"words": "a"}']) == 2
    assert "text 0 has no column 'text'" in capsys.readouterr().err


def test_a_split_or_file_that_is_not_there(capsys, tuned, tmp_path):
    assert cli.main(["evaluate", str(tuned.adapter), "--file", str(tmp_path / "x.jsonl")]) == 2
    assert "does not exist" in capsys.readouterr().err
