"""The public interface is what its file says, and the type checker is silenced in few places only."""

import ast
import re
from pathlib import Path

import jaxprefix as jp
from tests import public_names

PACKAGE = Path(jp.__file__).parent
IGNORE = re.compile(r"#\s*(?:pyright|type|basedpyright):\s*(?:ignore|basic|strict|report)")
NAMED = re.compile(r"# pyright: ignore\[\w+\]  # \w")
MOST = 20


def test_public_names_and_signatures_are_those_of_the_file():
    written = public_names.FILE.read_text().splitlines()
    now = public_names.text().splitlines()
    assert now == written, "if this is meant, run `python -m tests.public_names` and say it in CHANGELOG.md"


def test_every_public_name_is_in_the_file():
    tops = {re.match(r"\w+", line)[0] for line in public_names.FILE.read_text().splitlines() if line[0] != " "}
    assert tops == set(jp.__all__)


def test_a_changed_default_is_seen(monkeypatch):
    tree = public_names._tree("jaxprefix.methods.lora")
    (lora,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "LoRA")
    (rank,) = (node for node in lora.body if isinstance(node, ast.AnnAssign) and node.target.id == "rank")
    before = public_names.text()
    monkeypatch.setattr(rank, "value", ast.Constant(9))
    changed = set(public_names.text().splitlines()) - set(before.splitlines())
    assert changed == {"    rank: Count = 9"}


def test_the_type_checker_is_silenced_rarely_and_with_a_reason():
    lines = [line for path in sorted(PACKAGE.rglob("*.py")) for line in path.read_text().splitlines()]
    ignores = [line for line in lines if IGNORE.search(line)]
    assert [line for line in ignores if not NAMED.search(line)] == []
    assert len(ignores) <= MOST
