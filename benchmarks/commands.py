"""CPU seconds of commands that people wait for: help, what is refused, `describe`, `predict` of two texts.

    git worktree add BEFORE COMMIT
    python benchmarks/commands.py [BEFORE ...]

Every version writes an adapter of its own first (two updates of a classifier on the embedded encoder). Then all
commands run in every version, one round after another, in fresh processes; the smallest of the rounds counts. Writes
results/commands.json.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import ROOT, commit, save, versions

CONFIG = """import jaxprefix as jp


def config():
    task = jp.Classification(jp.Files("{rows}"), max_length=16)
    return jp.Run(task, "tiny-encoder", jp.PTuningV2(length=4), steps=2, batch_size=4, folder="{folder}/run")
"""
COMMANDS = {  # title: arguments, exit code
    "`--help`": (["--help"], 0),
    "`train --help`": (["train", "--help"], 0),
    "`compare --help`": (["compare", "--help"], 0),
    "`predict ADAPTER --batch-size 0`": (["predict", "{folder}/run/adapter", "--batch-size", "0"], 2),
    "`train CONFIG --help`": (["train", "{folder}/config.py", "--help"], 0),
    "`train CONFIG`, a wrong field": (["train", "{folder}/config.py", "--no-field", "3"], 2),
    "`train CONFIG`, a wrong column": (["train", "{folder}/column.py"], 2),
    "`describe ADAPTER`": (["describe", "{folder}/run/adapter"], 0),
    "`predict ADAPTER`, two texts": (["predict", "{folder}/run/adapter", "good tea", "bad milk"], 0),
}


def cpu_seconds(tree: Path, folder: Path, args: list[str]) -> tuple[int, float]:
    """Exit code and CPU seconds of a command with the package in a checkout, and of its children."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment = {**kept, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu", "JAXPREFIX_CACHE": f"{folder}/cache"}
    module = "jaxprefix.cli.main" if (tree / "jaxprefix" / "cli" / "main.py").is_file() else "jaxprefix.cli"
    words = [sys.executable, "-c", f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(
        [*words, *(arg.format(folder=folder) for arg in args)],
        cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet,
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def prepare(tree: Path, folder: Path) -> None:
    """Rows, configs and an adapter of a version."""
    folder.mkdir()
    rows = folder / "rows.jsonl"
    rows.write_text('{"text": "good tea", "label": "good"}\n{"text": "bad milk", "label": "bad"}\n' * 8)
    config = CONFIG.format(rows=rows, folder=folder)
    (folder / "config.py").write_text(config)
    (folder / "column.py").write_text(config.replace("max_length=16", 'text="sentence", max_length=16'))
    code, _ = cpu_seconds(tree, folder, ["train", "{folder}/config.py"])
    if code:
        raise SystemExit(f"the adapter of {tree} could not be written (exit code {code}).")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, nargs="*", help="checkouts of versions to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    trees = {commit(tree): tree.resolve() for tree in (*options.before, ROOT)}
    least = {title: dict.fromkeys(trees, float("inf")) for title in COMMANDS}
    codes = {title: dict.fromkeys(trees, 0) for title in COMMANDS}
    with tempfile.TemporaryDirectory() as place:
        for name, tree in trees.items():
            prepare(tree, Path(place, name))
        for _ in range(options.rounds):
            for title, (args, _) in COMMANDS.items():
                for name, tree in trees.items():
                    code, seconds = cpu_seconds(tree, Path(place, name), args)
                    codes[title][name] = code
                    least[title][name] = min(least[title][name], seconds)
    for title, (_, wanted) in COMMANDS.items():
        if codes[title][commit(ROOT)] != wanted:
            raise SystemExit(f"{title} ended with {codes[title]} and not with {wanted}.")
        print(
            f"{title:36}", *(f"{name} {seconds:.2f} ({codes[title][name]})" for name, seconds in least[title].items())
        )
    save("commands", {"rounds": options.rounds, "now": commit(ROOT), "seconds": least}, versions())


if __name__ == "__main__":
    main()
