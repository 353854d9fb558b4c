"""What lets a run go on where it was: what it remembers of its evaluations, and what must not have changed since."""

import dataclasses
import math
import os
from typing import Any

import jax

from jaxprefix.errors import UserError
from jaxprefix.paths import cache_folder
from jaxprefix.training.config import Run
from jaxprefix.training.provenance import at_its_new_place, refuse_other_tokenizer, with_absolute_paths
from jaxprefix.training.setup import Setup
from jaxprefix.typed_json import differences, from_json


@dataclasses.dataclass
class History:
    """What the choice of the best checkpoint and early stopping go by; stored with every checkpoint."""

    best_step: int = 0
    best_metric: float | None = None
    without_progress: int = 0

    def evaluated(self, step: int, metric: float, maximise: bool) -> None:
        """Takes note of an evaluation; a metric that is not finite is no better than any."""
        better = self.best_metric is None or (metric > self.best_metric if maximise else metric < self.best_metric)
        if better and math.isfinite(metric):
            self.best_step, self.best_metric, self.without_progress = step, metric, 0
        else:
            self.without_progress += 1


@dataclasses.dataclass
class MemberHistory(History):
    """A member's evaluations, and when it ended before the others.

    Attributes:
      evaluations: step and metric of each.
      failed_at: the update that was not finite any more.
      stopped_at: the evaluation at which its patience was at an end.
    """

    evaluations: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    failed_at: int | None = None
    stopped_at: int | None = None


def refuse_other_run(run: Run, stored: dict[str, Any]) -> None:
    """Refuses, as UserError, to go on from a checkpoint whose run differs in a field that must not change."""
    before, now = with_absolute_paths(from_json(stored["run"], Run)), with_absolute_paths(run)
    if "data" in stored:
        before = at_its_new_place(before, now)
    same = {name: getattr(now, name) for name in Run.FREE}
    changed = differences(dataclasses.replace(before, **same), now)
    if changed:
        raise UserError(
            f"{run.folder} holds a run with another config ({'; '.join(changed)}); give this one another folder, or "
            "restore those fields to go on with that one."
        )


def refuse_other_backbone(setup: Setup, stored: dict[str, Any]) -> None:
    """Refuses, as UserError, to go on from a checkpoint whose backbone had other leaves or another config."""
    before, now = stored["backbone"], setup.backbone.identity
    what, remedy = f"the run in {setup.run.folder}", "put the former one back, or give this run another folder"
    refuse_other_tokenizer(what, before.get("tokenizer"), now.get("tokenizer"), now["source"], remedy)
    if before["identity"] == now["identity"]:
        return
    changed = [name for name, digest in before["fingerprint"].items() if now["fingerprint"].get(name) != digest]
    what = f"{len(changed)} tensors differ, {changed[0]} among them" if changed else "its config differs"
    raise UserError(
        f"{setup.run.folder} was begun with another backbone than {now['source']} is now ({what}); "
        "put the former one back, or give this run another folder."
    )


def keep_compiled_programs() -> None:
    """Turns on JAX's persistent compilation cache, unless its place is configured already."""
    if jax.config.values["jax_compilation_cache_dir"] is None and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
