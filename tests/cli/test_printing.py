"""What is printed: UTF-8 whatever the locale says, and no control character of a text that is not ours."""

import ast
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprefix.checkpoints.card import model_card
from jaxprefix.cli.main import _Escaping, main
from jaxprefix.errors import escaped
from tests.cli.adapters import write_classifier

ROOT = Path(__file__).parents[2]
WILD = "a\x1b[31m\n\u202eb\u2028\x9b\u200b\U000e0041\ud800"


def controls(text, keep="\n"):
    return [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp", "Cs") and c not in keep]


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_escaping_hides_control_characters_and_nothing_else(text):
    found = escaped(text)
    assert not controls(found, keep="")
    assert [c for c in text if c in found] == [c for c in text if not controls(c, keep="")] or controls(text, keep="")
    if not controls(text, keep=""):
        assert found == text
    assert not text or found.encode()  # no half of a pair is left


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        st.text() | st.integers() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_says_the_same_escaped(value):
    found = escaped(json.dumps(value, ensure_ascii=False), json=True)
    assert not controls(found, keep="") and json.loads(found) == value


def test_answers_messages_and_the_log_hold_no_control_characters(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))
    label = WILD[:-1]
    adapter = write_classifier(tmp_path / "adapter", labels=[label, f"{label}2"])
    assert main(["predict", adapter, "tea"]) == 0
    out = capsys.readouterr().out
    assert not controls(out) and json.loads(out)["label"].startswith(label)
    assert main(["predict", str(tmp_path / label), "tea"]) == 2
    said = capsys.readouterr().err
    assert not controls(said) and "\\x1b" in said and said.count("\n") == 1
    assert main([label]) == 2
    assert not controls(capsys.readouterr().err)
    with pytest.raises(SystemExit):
        main(["predict", adapter, "tea", "--batch-size", label])
    assert not controls(capsys.readouterr().err)
    record = logging.LogRecord("jaxprefix", logging.INFO, "", 1, "%s trains", (label,), None)
    assert _Escaping("%(message)s").format(record) == f"{escaped(label)} trains"


def test_a_model_card_shows_names_and_obeys_none():
    folder, label = "x\"'\n# head <b>|", "`<script>\n## l\x1b"
    config = {"method": {"type": "PTuningV2", "note": "a|b\n# c <i>"}}
    text = model_card(folder, config, {"name": "b`\n# d"}, {}, [label, "fine"], 3, 4)
    assert not controls(text)
    assert [line for line in text.splitlines() if line.startswith("#")][1:] == [
        "## Method", "## Backbone", "## Labels", "## Use"
    ]  # fmt: skip
    outside = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text.partition("## Use")[0])
    assert "<" not in outside.replace("\\<", "")
    assert "`` `<script>\\n## l\\x1b ``, `fine`" in text
    code = text.partition("```python\n")[2].partition("\n```")[0]
    (call,) = [
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "jp.load_adapter"
    ]
    assert ast.literal_eval(call.args[0]) == folder


def ask(*args, given=b"", **environment):
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    command = [sys.executable, "-m", "jaxprefix.cli", *args]
    return subprocess.run(command, input=given, capture_output=True, env=env, cwd=ROOT)


@pytest.mark.slow
def test_output_is_utf8_whatever_the_locale_says(tmp_path):
    adapter = write_classifier(tmp_path / "adapter", labels=["café", "thé"])
    done = ask("predict", adapter, "café", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 0 and json.loads(done.stdout.decode())["label"] in ("café", "thé")
    done = ask("predict", f"{adapter}é", "x", PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 2 and "adapteré is not an adapter folder" in done.stderr.decode()
    done = ask("predict", adapter, given="café\n".encode(), PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and len(done.stdout.decode().splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "words"),
    [("cuda", "asks for cuda, and jax is installed here for cpu; install the extra with `pip install -e '.[cuda]'`"),
     ("foo", "asks for foo, and jax is installed here for cpu (")],
)  # fmt: skip
def test_devices_that_are_not_here(adapter, asked, words):
    done = ask("predict", adapter, "tea", JAX_PLATFORMS=asked)
    assert done.returncode == 2 and words in done.stderr.decode() and "Traceback" not in done.stderr.decode()


def test_a_topology_of_no_likeness(tmp_path, capsys):
    assert main(["plan", "x.py", "--topology", "foo-3"]) == 2
    said = capsys.readouterr().err
    assert "no TPU topology 'foo-3'; name one as it is sold, such as v4-32, v5e-16" in said


@pytest.mark.parametrize(
    "args",
    [
        ["plan", "x.py", "--slices", "0"],
        ["plan", "x.py", "--tokens", "-1"],
        ["plan", "x.py", "--budget", "nan"],
        ["compare", "x.py", "--methods", "a", "--seeds", "0"],
        ["compare", "x.py", "--methods", "a", "--budget", "0"],
        ["compare", "x.py", "--methods", "a", "--rates-scale", "1", "-1"],
        ["gates", "x", "--keep", "0"],
        ["gates", "x", "--tau", "2"],
        ["generate", "x", "p", "--max-new-tokens", "0"],
        ["generate", "x", "p", "--temperature", "inf"],
        ["generate", "x", "p", "--top-p", "0"],
        ["generate", "x", "p", "--seed", "-1"],
    ],
)
def test_own_options_out_of_bounds(args, capsys):
    with pytest.raises(SystemExit) as exit:
        main(args)
    assert exit.value.code == 2
    assert f"{args[-1]!r} is no" in capsys.readouterr().err
