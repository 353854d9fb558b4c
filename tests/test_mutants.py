"""The mutation script changes one expression, draws the same mutants again, and finds them where code has moved."""

import ast
import itertools
import json
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import mutants as script  # noqa: E402
from mutation.find import Room, draw, find  # noqa: E402
from mutation.kinds import KINDS  # noqa: E402
from mutation.report import compared, table  # noqa: E402
from mutation.run import Copy, Outcome  # noqa: E402
from mutation.syntax import mutants  # noqa: E402

# Code, and all that becomes of the expressions in it, by kind.
CASES = [
    ("a + b", {("sign", "a - b")}),
    ("a - b", {("sign", "a + b")}),
    ("-a", {("sign", "a")}),
    ("n += 1", {("sign", "n -= 1")}),
    ("a + 'text'", set()),
    ("x[1]", {("bound", "x[2]"), ("bound", "x[0]")}),
    ("x[-1]", {("bound", "x[-2]"), ("bound", "x[0]"), ("sign", "x[1]")}),
    ("x['key']", set()),
    ("x[:n]", {("bound", "x[:n + 1]"), ("bound", "x[:n - 1]")}),
    ("range(n)", {("bound", "range(n + 1)"), ("bound", "range(n - 1)")}),
    ("a < b", {("bound", "a <= b")}),
    ("a == b", set()),
    ("x.reshape(2, -1)", {("bound", "x.reshape(3, -1)"), ("bound", "x.reshape(1, -1)")}),
    ("jnp.where(c, x, 0)", {("mask", "x")}),
    ("jnp.where(c, 0, x)", {("mask", "x")}),
    ("x & y", {("mask", "x"), ("mask", "y")}),
    ("keep_mask * y", {("mask", "y")}),
    ("y * rate", set()),
    ("f(x, mask=m)", {("mask", "f(x, mask=None)")}),
    ("jnp.sum(x, axis=0)", {("axis", "jnp.sum(x, axis=1)")}),
    ("x.sum(-1)", {("axis", "x.sum(-2)")}),
    ("x.shape[-1]", {("axis", "x.shape[-2]")}),
    ("x.transpose(0, 2, 1)", {("axis", "x.transpose(2, 0, 1)"), ("axis", "x.transpose(0, 1, 2)")}),
    ("jnp.einsum('ab->ab', x)", {("axis", "jnp.einsum('ab->ba', x)")}),
    ("x[:, None]", {("axis", "x[None, :]")}),
]


@pytest.mark.parametrize(("code", "expected"), CASES, ids=[code for code, _ in CASES])
def test_what_becomes_of_an_expression(code, expected):
    assert {(mutant.kind, mutant.replacement) for mutant in mutants(code + "\n")} == expected


def test_nothing_but_executed_expressions_changes():
    source = '''
@cached(limit=n - 1)
def f(x: Array["a", 1 - 2]) -> Array[1]:
    """a - b"""
    y: Array[1] = x
    if not y:
        raise ValueError(f"{a - b}" + str(a - b))
    assert y, a - b
    return f"{a - b}"


__all__ = [names[0]]
'''
    assert mutants(source) == []


def test_a_mutant_has_the_name_of_its_function():
    (mutant,) = mutants("class A:\n    def f(self):\n        def g():\n            return a + b\n")
    assert mutant.function == "A.f.g"


def differing(before, after):
    """The outermost nodes in which two syntax trees differ."""
    if ast.dump(before) == ast.dump(after):
        return []
    ours, theirs = list(ast.iter_child_nodes(before)), list(ast.iter_child_nodes(after))
    inner = [differing(*pair) for pair in zip(ours, theirs, strict=False)]
    fields = [type(before)] + [value for _, value in ast.iter_fields(before) if not isinstance(value, ast.AST | list)]
    others = [type(after)] + [value for _, value in ast.iter_fields(after) if not isinstance(value, ast.AST | list)]
    same = fields == others and len(ours) == len(theirs)
    return [node for nodes in inner for node in nodes] if same else [(before, after)]


@pytest.mark.parametrize("room", [pytest.param("attention", marks=pytest.mark.slow), "edits"])
def test_a_mutated_file_differs_in_the_expression_alone(room):
    kinds = set()
    for file in script.ROOMS[room].sources(ROOT):
        source = (ROOT / file).read_text()
        data, before, found = source.encode(), ast.parse(source), mutants(source)
        starts = [0, *itertools.accumulate(map(len, data.splitlines(keepends=True)))]
        assert len({(mutant.span, mutant.text) for mutant in found}) == len(found)
        for mutant in found:
            kinds.add(mutant.kind)
            start, end = mutant.span
            changed = mutant.apply(source)
            assert changed.encode() == data[:start] + mutant.text.encode() + data[end:]
            pairs = differing(before, ast.parse(changed))
            assert pairs
            for old, _ in pairs:
                if hasattr(old, "lineno"):  # operators have none
                    assert start <= starts[old.lineno - 1] + old.col_offset
                    assert starts[old.end_lineno - 1] + old.end_col_offset <= end
    assert kinds == set(KINDS)


SOURCE = """
def f(x, n):
    return x[n - 1] + jnp.where(x > 0, x, 0).sum(axis=0)


def g(x):
    return x + 1
"""


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "jaxprefix" / "room").mkdir(parents=True)
    (tmp_path / "jaxprefix" / "room" / "a.py").write_text(SOURCE)
    return tmp_path


ROOMS = {"room": Room(("jaxprefix/room", "jaxprefix/elsewhere"), ("tests/room",))}


def test_a_draw_goes_by_its_seed_and_has_every_kind(tree):
    drawn = draw(tree, ROOMS, seed=3, each=5, of_kind=1)
    assert drawn == draw(tree, ROOMS, seed=3, each=5, of_kind=1)
    assert {wanted["kind"] for wanted in drawn} == set(KINDS) and len(drawn) == 5
    assert any(draw(tree, ROOMS, seed, each=5, of_kind=1) != drawn for seed in range(5))
    with pytest.raises(SystemExit, match="room has only"):
        draw(tree, ROOMS, seed=3, each=100)


def test_a_mutant_is_found_where_its_code_has_gone(tree, tmp_path):
    drawn = draw(tree, ROOMS, seed=0, each=5, of_kind=1)
    (wanted,) = (each for each in drawn if each["kind"] == "axis")
    assert find(tree, wanted, {})[0] == "jaxprefix/room/a.py"

    new = tmp_path / "new"
    (new / "jaxprefix" / "elsewhere").mkdir(parents=True)
    moved = new / "jaxprefix" / "elsewhere" / "b.py"
    moved.write_text("VALUE = 3\n" + SOURCE)
    file, mutant = find(new, wanted, {})  # the function has its name still
    assert file == "jaxprefix/elsewhere/b.py" and mutant.replacement == wanted["replacement"]


def test_a_renamed_function_and_expression_are_found_by_the_table(tree, tmp_path):
    wanted = next(each for each in draw(tree, ROOMS, seed=0, each=5, of_kind=1) if each["kind"] == "axis")
    new = tmp_path / "new"
    (new / "jaxprefix").mkdir(parents=True)
    (new / "jaxprefix" / "c.py").write_text(SOURCE.replace("def f", "def renamed").replace("x, 0)", "values, 0)"))
    moves = {"functions": {"jaxprefix/room/a.py::f": "jaxprefix/c.py::renamed"}}
    assert find(new, wanted, {}) is None and find(new, wanted, moves) is None
    texts = {name: wanted[name].replace("x, 0)", "values, 0)") for name in ("expression", "replacement")}
    file, mutant = find(new, wanted, {**moves, "mutants": {wanted["id"]: texts}})
    assert file == "jaxprefix/c.py" and mutant.expression == texts["expression"]
    assert find(tree, wanted, {**moves, "mutants": {wanted["id"]: texts}})[0] == "jaxprefix/room/a.py"


def test_of_equal_expressions_the_right_one_is_found(tmp_path):
    (tmp_path / "jaxprefix").mkdir()
    path = tmp_path / "jaxprefix" / "a.py"
    path.write_text("def f(x):\n    y = x + 1\n    z = x + 1\n    return y, z\n")
    first, second = mutants(path.read_text())
    wanted = {**vars(second), "id": "a", "file": "jaxprefix/a.py"}
    assert find(tmp_path, wanted, {})[1] == second
    assert (first.occurrence, second.occurrence) == (0, 1)
    new = tmp_path / "new"
    (new / "jaxprefix").mkdir(parents=True)
    (new / "jaxprefix" / "a.py").write_text("def f(x):\n    w = x + 1\n    y = x + 1\n    z = x + 1\n")
    assert find(new, wanted, {})[1].context == "z = x + 1"
    (new / "jaxprefix" / "b.py").write_text("def f(x):\n    return x + 1\n")
    assert find(new, {**wanted, "file": "gone.py", "context": "return x + 1"}, {})[0] == "jaxprefix/b.py"


def test_the_committed_mutants_are_sixty_of_every_room():
    drawn = json.loads(script.DRAWN.read_text())["mutants"]
    assert len(drawn) == len({wanted["id"] for wanted in drawn}) == 60
    assert {room: sum(wanted["room"] == room for wanted in drawn) for room in script.ROOMS} == dict.fromkeys(
        script.ROOMS, 10
    )


def outcome(code, cpu=1.0):
    return Outcome(code, cpu, cpu, "", "")


@pytest.mark.parametrize(
    ("mutated", "unmutated", "expected"),
    [
        (outcome(0), outcome(0), (False, "passed")),
        (outcome(1), outcome(0), (True, "failed")),
        (outcome(4), outcome(0), (True, "failed")),
        (outcome(-11), outcome(0), (True, "crashed")),
        (outcome(None, 121), outcome(0, 59), (True, "hung")),
        (outcome(None, 121), outcome(0, 61), (False, "cut off")),
        (outcome(None, 121), outcome(None, 121), (False, "cut off")),
        (outcome(None, 5), outcome(0, 61), (False, "waited")),
    ],
)
def test_how_a_run_is_judged(mutated, unmutated, expected):
    assert script.judged(mutated, script.measured(unmutated)) == expected


@pytest.fixture
def package(tmp_path):
    (tmp_path / "jaxprefix").mkdir()
    (tmp_path / "jaxprefix" / "__init__.py").write_text("")
    (tmp_path / "jaxprefix" / "a.py").write_text("def f(x):\n    return x + 1\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "from jaxprefix.a import f\n\n\ndef test_f():\n    assert f(1) == 2\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    slow\n    parity\n")
    return tmp_path


def test_a_run_goes_on_where_it_was_stopped(package, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "ROOMS", {"room": Room(("jaxprefix/a.py",), ("tests",))})
    drawn = draw(package, script.ROOMS, seed=0, each=1)
    lost = {**drawn[0], "id": "room-02", "function": "gone"}
    path = tmp_path / "results.jsonl"
    script.run(package, [*drawn, lost], {}, script.Results(path, {"commit": "a"}), jobs=1, processes=0)
    lines = script.read(path)
    assert lines["room-01"]["killed"] and lines["room-01"]["first"] == "tests/test_a.py::test_f"
    assert lines["unmutated-room"]["code"] == 0 and lines["room-02"]["how"] == "not found"
    assert "room-02 is not found" in capsys.readouterr().out
    assert (package / "jaxprefix" / "a.py").read_text() == "def f(x):\n    return x + 1\n"

    with path.open("a") as file:
        file.write('{"id": "room-02", "kil')  # what a kill may leave
    monkeypatch.setattr(script, "Copy", lambda tree: pytest.fail("a known mutant ran again"))
    results = script.Results(path, {"commit": "a"})
    script.run(package, drawn, {}, results, jobs=1, processes=0)
    results.add({"id": "room-02", "how": "passed"})
    assert script.read(path) == {**lines, "room-02": {"id": "room-02", "how": "passed"}}
    with pytest.raises(SystemExit, match="other results"):
        script.Results(path, {"commit": "b"})


def test_a_run_is_cut_off_by_its_cpu_seconds(package):
    (package / "tests" / "test_a.py").write_text(
        "import subprocess, sys\n\n\ndef test_f():\n    subprocess.run([sys.executable, '-c', 'while True: pass'])\n"
    )
    copy = Copy(package)
    try:
        result = copy.test(["tests/test_a.py"], (), 1.5, threading.Event())
    finally:
        copy.close()
    assert result.code is None and result.cpu >= 1.5


def test_two_results_are_joined():
    wanted = {
        "id": "a-01",
        "room": "a",
        "file": "jaxprefix/a.py",
        "function": "f",
        "kind": "mask",
        "expression": "x | y",
        "replacement": "x",
    }
    old, new = {"a-01": {"killed": False, "how": "passed"}}, {"a-01": {"killed": True, "how": "failed"}}
    text = compared([wanted], old, new, {"a-01": "why"})
    assert "| a | 1 | 0 | 1 |" in text and "`x \\| y` to `x` | survived, passed | killed, failed | why |" in text
    assert "| a | 1 | 0 | 1 | 0 |" in table([wanted], old) and "a-01 (mask)" in table([wanted], old)
