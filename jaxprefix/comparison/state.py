"""What a comparison has finished, in a file that is whole at every moment."""

import dataclasses
import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxprefix.checkpoints.files import writing
from jaxprefix.checkpoints.place import Place
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Method
from jaxprefix.training.config import Run
from jaxprefix.training.provenance import described_splits, refuse_other_rows, stored_run, with_absolute_paths
from jaxprefix.typed_json import differences, from_json, to_json

STATE = "comparison.json"


class State:
    """What is finished, in `comparison.json`, which is whole at every moment.

    Raises:
      UserError: the folder holds a comparison with other settings.
    """

    def __init__(
        self, run: Run, methods: dict[str, Method], usual: dict[str, float], seeds: int, rates: tuple, place: Place
    ):
        self._place = place
        self.path = Path(run.folder) / STATE
        settings = {"seeds": seeds, "rates": list(rates)}
        self.content: dict[str, Any] = {"run": stored_run(run), "settings": settings, "methods": {}, "stages": {}}
        rows = described_splits(run.task, run.task.source.splits)
        if self.path.exists():
            self.content = json.loads(self.path.read_text())
            same = {name: getattr(run, name) for name in Run.FREE}
            before = with_absolute_paths(dataclasses.replace(from_json(self.content["run"], Run), **same))
            changed = differences(before, with_absolute_paths(run)) + differences(self.content["settings"], settings)
            for name, method in methods.items():
                stored = self.content["methods"].get(name)
                if stored is not None:
                    changed += differences(
                        {name: from_json(stored["method"]), f"{name}, rate": stored["rate"]},
                        {name: method, f"{name}, rate": usual[name]},
                    )
            if changed:
                raise UserError(
                    f"{run.folder} holds a comparison with other settings ({'; '.join(changed)}); give this one "
                    "another folder, or restore those to go on with that one."
                )
            refuse_other_rows(run.folder, self.content.get("data"), rows)
        self.content["data"] = rows
        self.content["methods"] |= {
            name: {"method": to_json(method), "rate": usual[name]} for name, method in methods.items()
        }

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """By method and name of the stage, what the finished stages gave."""
        return self.content["stages"]

    def stage(self, method: str, name: str, make: Callable[[], Any]) -> Any:
        """The result of a stage: the stored one, or that of `make`, which is stored then."""
        found = self.stages.setdefault(method, {})
        if name not in found:
            self._place.check()
            made = make()
            self._place.check()
            found[name] = made
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
            self.content["peak_bytes"] = max(peak, self.content.get("peak_bytes", 0))
            write_whole(self.path, json.dumps(self.content, indent=1) + "\n")
        return found[name]


def write_whole(path: Path, text: str) -> None:
    """Writes a text file that is the old or the new one at every moment."""
    with writing(path.name, path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        with partial.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
