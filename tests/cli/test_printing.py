"""What is printed: UTF-8 whatever the locale says, and no control character of a text that is not ours."""

import ast
import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import types
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from jaxprefix.checkpoints.card import model_card
from jaxprefix.cli import plan as cli_plan
from jaxprefix.cli.main import COMMANDS, _Escaping, main
from jaxprefix.comparison import ENTRIES
from jaxprefix.distributed import stderr_relay
from jaxprefix.errors import UserError, escaped
from jaxprefix.inspection.describe_report import print_report
from jaxprefix.methods.summaries import summaries
from jaxprefix.planning import table as planning
from jaxprefix.planning.plan import Plan
from jaxprefix.planning.search import Found
from jaxprefix.self_check.report import Check, CheckItem
from jaxprefix.training.reporting import tell_report
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


def printed(*parts):
    """What a console of the width of these says."""
    out = io.StringIO()
    for part in parts:
        Console(file=out, width=400).print(part)
    return out.getvalue()


def shown_by(show, *args):
    """What a function prints on a console."""
    out = io.StringIO()
    show(*args, Console(file=out, width=400))
    return out.getvalue()


def said_of(text):
    """A report of rows that has a text wherever one of the data may stand."""
    found = {
        "name": text, "rows": 2, "examples": 2, "lengths": {"shortest": 1, "median": 1.5, "longest": 2},
        "cut": {"rows": 0, "words": 0}, "empty": {text: 1}, "equal": {text: 1}, "tokens": {"all": 3, "unknown": 1},
        "targets": {"labels": {text: 1, "fine": 1}, "scheme": text, f"figure {text}": 3},
    }  # fmt: skip
    later = {**found, "equal": {f"{text}2": 0, text: 1}}
    return {"columns": [text], "splits": {text: found, f"{text}2": later}}


def told(text):
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    log = logging.getLogger("jaxprefix")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "handlers", [handler])
        patch.setattr(log, "level", logging.INFO)
        tell_report(said_of(text))
    assert len(records) <= 25
    return "\n".join(record.getMessage() for record in records)


def fake(kind, **fields):
    """An object of that class that has these fields and no others."""
    return object.__new__(type(kind.__name__, (kind,), fields))


def plan_page(text):
    plan = fake(Plan, train=types.SimpleNamespace(moved=()), problems=[text])
    unfit = fake(Plan, fits=False, largest=None, capacity=None, steps=[types.SimpleNamespace(refusal=text)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_facts", lambda plan: {"backbone": text, "fits": planning._fits(unfit)})
        patch.setattr(planning, "_memory", lambda plan: "")
        return shown_by(planning.print_plan, plan)


def search_page(text):
    plan = fake(Plan, train=types.SimpleNamespace(time=None), utilisation=None, largest=None, fits=True)
    return shown_by(planning.print_search, [fake(Found, changes=text, plan=plan)])


def suggestions_page(text):
    tried = [{"change": text, "fits": True, "largest": None, "topology": ""}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxprefix.planning.search.suggestions", lambda plan, budget: tried)
        return shown_by(lambda console: cli_plan._suggestions(None, 1.0, console))


def gates_page(text):
    gates = types.SimpleNamespace(
        pattern=lambda *args, **options: types.SimpleNamespace(kept=np.ones(2), tau=0.5),
        present=np.ones(2), rows=3, table=lambda *args, **options: "", method=lambda *args, **options: None,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr("jaxprefix.adapters.adapter.load_adapter", lambda *args, **options: None)
        patch.setattr("jaxprefix.inspection.gates.read_gates", lambda *args, **options: gates)
        patch.setattr("jaxprefix.typed_json.expression", lambda value, prefix: text)
        assert main(["gates", "x"]) == 0
    return out.getvalue()


def relayed(text):
    out = io.StringIO()
    stderr_relay.write(io.StringIO(f"one {text}\n", newline=""), out, "a:1", 4, 300)
    return out.getvalue()


PAGES = {
    "check": lambda text: printed(Check((CheckItem(text, "failed", text, text),))),
    "gates": gates_page,
    "plan": plan_page,
    "search": search_page,
    "suggestions": suggestions_page,
    "relay": relayed,
    "report": lambda text: shown_by(print_report, said_of(text)),
    "log": told,
    "card": lambda text: model_card("a", {}, {}, {text: {text: 1.0}}, None, 3, 4, said_of(text)),
}


@pytest.mark.parametrize("page", PAGES)
@settings(max_examples=20, deadline=None)
@given(text=st.text(max_size=20) | st.just(WILD) | st.just("[/red][bold]x"))
def test_no_page_has_control_characters_of_texts_that_are_not_ours(page, text):
    found = PAGES[page](text)
    assert not controls(found, keep="\n\t")
    if text.isascii() and text.isprintable() and " " not in text and page not in ("card", "relay"):
        assert text in found  # brackets are no markup


def test_the_relay_escapes_without_the_package():
    command = [sys.executable, "-I", "-S", stderr_relay.__file__, "a:1", "4", "300"]
    done = subprocess.run(command, input=f"10 %\r{WILD[:-1]}\r\n\ttwo".encode(), stderr=subprocess.PIPE, check=True)
    escapes = "a\\x1b[31m\n\\u202eb\\u2028\\x9b\\u200b\\U000e0041"
    assert done.stderr.decode() == f"10 %\n{escapes}\n\ttwo"


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


@pytest.mark.parametrize("said", ["bad\n  page header.\r\n", "bad page header. ", "bad\rpage header."])
def test_a_refusal_is_one_line_whatever_it_quotes(said):
    found = str(UserError(f"x ({said}); y."))
    assert found.split() == f"x ({said}); y.".split() and "\n" not in found and "\r" not in found
    assert str(UserError("two  spaces\x1b stay")) == "two  spaces\x1b stay"
    assert str(UserError("half \udce9 é")) == "half \\udce9 é"


HELP = """
import os, sys
from jaxprefix.cli.main import COMMANDS, main

wrong = [["predict", "x", "--nonsense"], ["generate", "x", "--batch-size", "0"], ["compare", "c.py", "--seeds", "0"]]
wrong += [[name, "--nonsense"] for name in ("train", "compare", "describe", "plan", "check")]
for args in (*([name, "--help"] for name in COMMANDS), *wrong):
    if os.fork() == 0:
        try:
            code = main(args)
        except SystemExit as end:
            code = end.code
        print("RAN", code, "jax" in sys.modules, *args)
        sys.stdout.flush()
        os._exit(0)
    os.wait()
"""


def test_help_and_wrong_options_import_no_jax():
    found = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    ran = [line.split(" ")[1:] for line in found.stdout.splitlines() if line.startswith("RAN ")]
    assert len(ran) == len(COMMANDS) + 8
    for code, imported, *args in ran:
        assert (code, imported) == ("0" if "--help" in args else "2", "False"), args


FIELDS = """
import os, sys

opened = []
sys.addaudithook(lambda event, args: event == "open" and "pretrained" in str(args[0]) and opened.append(str(args[0])))
from jaxprefix.cli.main import main

for rest in (["--help"], ["--no-field", "3"]):
    try:
        code = main(["train", "configs/rte_bert_large.py", *rest])
    except SystemExit as end:
        code = end.code
    from jax._src import xla_bridge
    files = [name for name in opened if not name.endswith((".py", ".pyc"))]
    print("RAN", code, bool(xla_bridge._backends), len(files))
"""


@pytest.mark.slow
def test_help_of_fields_and_a_wrong_one_make_no_backend_and_open_no_model():
    found = subprocess.run([sys.executable, "-c", FIELDS], capture_output=True, text=True, cwd=ROOT)
    ran = [line for line in found.stdout.splitlines() if line.startswith("RAN ")]
    assert ran == ["RAN 0 False 0", "RAN 2 False 0"], found.stderr


def test_the_help_of_compare_lists_the_methods_that_it_knows():
    assert summaries() == ENTRIES
