"""The command line's own options are judged before JAX is imported."""

import subprocess
import sys

import pytest

from jaxprefix.cli.options import Parser, whole

WRONG = [
    ["compare", "x.py", "--methods", "a", "--seeds", "0"],
    ["compare", "x.py", "--methods", "a", "--budget", "nan"],
    ["train", "x.py", "--processes", "many"],
    ["train", "x.py", "--process", "-1"],
    ["plan", "x.py", "--labels=--"],
    ["predict", "a", "--batch-size", "0"],
]
SCRIPT = f"""
import sys
from jaxprefix.cli.main import main

for args in {WRONG!r}:
    try:
        code = main(args)
    except SystemExit as exit:
        code = exit.code
    assert code == 2 and "jax" not in sys.modules, args
"""


def test_a_wrong_option_is_refused_without_jax():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stderr.splitlines() if "error: argument --" in line]) == len(WRONG)


def test_two_hyphens_are_no_value(capsys):
    parser = Parser(prog="x")
    parser.add_argument("--size", type=whole(1))
    parser.add_argument("rest", nargs="*")
    assert parser.parse_args(["--size", "3", "--", "--size=4"]).rest == ["--size=4"]
    with pytest.raises(SystemExit):
        parser.parse_args(["--size=--"])
    assert "argument --size: '--' is no value" in capsys.readouterr().err
