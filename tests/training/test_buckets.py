"""Runs whose folder is a bucket: the paths, and a log that cannot be added to."""

import json

import pytest
from etils import epath

from jaxprefix.checkpoints.files import run_folder
from jaxprefix.errors import UserError
from jaxprefix.training.writers import BucketLines


def test_a_bucket_keeps_its_name_and_a_local_folder_stays_relative(monkeypatch):
    monkeypatch.setattr("jaxprefix.checkpoints.files._check_scheme", lambda path: None)  # gcsfs is an extra
    assert str(run_folder("gs://bucket/runs/x") / "checkpoints") == "gs://bucket/runs/x/checkpoints"
    assert str(run_folder("runs/x")) == "runs/x"


def test_lines_are_written_anew_now_and_then_and_at_the_end(tmp_path):
    path = epath.Path(tmp_path / "metrics.jsonl")
    lines = BucketLines(path, 0)
    lines.scalars(1, {"loss": 2.0})
    assert not path.exists()
    lines.close()
    assert json.loads(path.read_text()) == {"step": 1, "loss": 2.0}
    often = BucketLines(path, 1, every=0.0)
    often.scalars(2, {"loss": 1.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    again = BucketLines(path, 1)  # goes on from step 1: what came after will be written again
    again.scalars(2, {"loss": 0.5})
    again.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [2.0, 0.5]


def test_a_bucket_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    lines = BucketLines(epath.Path(tmp_path / "file" / "metrics.jsonl"), 0)
    lines.scalars(1, {"loss": 2.0})
    with pytest.raises(UserError, match="metrics could not be written to"):
        lines.close()
