"""The notebooks run from top to bottom, as a person would run them, and show what they say."""

import json
import os
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
def test_functional_apply(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(EXAMPLES / "01_functional_apply.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit the notebook without its outputs"
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    # the kernel starts in another folder, so an uninstalled checkout must be named
    paths = [str(EXAMPLES.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()

    printed = "".join(output.text for output in notebook.cells[-1].outputs if output.output_type == "stream")
    shown = json.loads(printed.splitlines()[-1])
    # learnt by hand: eight sentences are fitted, alone and as a population of three
    assert shown["last_loss"] < 0.2 < 0.5 < shown["first_loss"]
    assert len(set(shown["three_losses"])) == 3 and max(shown["three_losses"]) < 0.5
    # the embeddings are before the first virtual token, every layer behind it
    assert shown["moved"][0] == 0 and min(shown["moved"][1:]) > 0.01
    # learnt by the method of the notebook, whose factors take part; half of the rows are of each label
    assert shown["test"]["accuracy"] > 0.9
    assert shown["answers"] == ["person", "thing"]
    assert shown["factors_moved"] > 0.01 and shown["without_factors"] > 0.01
    # learnt by the task of the notebook: better than one number for all; two people in a text, none in the other
    assert shown["counting"] < 0.7 * shown["guessing"]
    assert shown["counts"][0] > shown["counts"][1] + 0.5
    # the adapter folder is the same model, and vmap changes nothing
    assert shown["reloaded"] == pytest.approx(shown["test"], rel=1e-5)
    assert shown["vmap_difference"] < 1e-3
