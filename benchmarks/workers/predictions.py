"""What adapters in the fixtures of the past answer, as JSON lines: `python predictions.py FOLDER`.

FOLDER is `tests/past`. Works with the package before and after tasks became values with behaviour, whichever PYTHONPATH
names, so that two versions can be compared (benchmarks/same_predictions.py). Numbers are written such that they are
read back to the bit.
"""

import json
import os
import sys
from pathlib import Path

import jaxprefix as jp

TEXTS = ("a good cat sat on the mat", "the cruel dog ran", "calm")


def answers(adapter: jp.Adapter, lines: list[dict]) -> list | None:
    """Labels with their scores, tags, or texts; None for masked language modelling, which answers nothing."""
    task = adapter.run.task
    rows = lines if getattr(task, "format", None) or getattr(task, "template", None) else list(TEXTS)
    if isinstance(task, jp.Tagging):
        return adapter.predict([{task.words: text.split()} for text in TEXTS])
    if isinstance(task, jp.Classification):
        return adapter.predict(rows)
    if isinstance(task, jp.MaskedLanguage):
        return None
    return adapter.generate(rows, jp.Decoding(max_new_tokens=4, min_new_tokens=2))


def main() -> None:
    os.chdir(sys.argv[1])  # whence the configs name backbones and data
    lines = [json.loads(line) for line in Path("data/held.jsonl").read_text().splitlines()[: len(TEXTS)]]
    for folder in sorted(Path("adapters").iterdir()):
        found = answers(jp.load_adapter(str(folder)), lines)
        print(json.dumps({"name": folder.name, "answers": found}), flush=True)


if __name__ == "__main__":
    main()
