"""Writes `midway_2`, the checkpoints of format 2 that `test_past` opens: a run that was stopped midway at commit
aebc939, when the record of a checkpoint had the names of the labels as `labels`. They stay as they are; to write them
again, in a work tree of that commit that has this file and `stopping.py`:

    python -m tests.past.make_midway_2

from the repository's root.
"""

import dataclasses
import os
import shutil
import tempfile
from pathlib import Path

from tests.past import asking
from tests.past.stopping import stop_after

FOLDER = "midway_2"


def main() -> None:
    os.chdir(asking.PAST)  # the config names data and backbone by paths from here
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["JAXPREFIX_CACHE"] = cache
        run = dataclasses.replace(asking.run_of("p_tuning_v2"), steps=6, checkpoint_every=2, folder=FOLDER)
        stop_after(3, run)
    Path(FOLDER, "metrics.jsonl").unlink()  # times of a machine
    for note in Path(FOLDER).rglob("commit_success.txt"):  # Orbax writes the whole path of the folder
        note.write_text(note.read_text().replace(f"{asking.PAST}/", ""))


if __name__ == "__main__":
    main()
