"""Checkpoints of a run: whole or absent, read back to the bit, the newest ones and the best one kept.

On the disk a checkpoint is a folder named by its step: `arrays/`, written by Orbax, and `record.json`, which holds what
is known of the run, the shape, dtype and digest of every leaf, and a digest of itself. Both are written into
`<step>.partial`, flushed, and renamed; so a folder whose name is a number was complete once, and the digests tell
whether it still is.
"""

import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

from jaxprefix.checkpoints import records
from jaxprefix.checkpoints.digests import digests
from jaxprefix.checkpoints.files import OLD, PROBE, as_path, check_writable, put_folder, recover_folder, writing
from jaxprefix.checkpoints.leaves import copies, read, start_saving, verified
from jaxprefix.checkpoints.orbax_logging import silence_orbax
from jaxprefix.checkpoints.place import Place
from jaxprefix.checkpoints.records import Damaged, Record
from jaxprefix.errors import FolderGone, UserError

log = logging.getLogger("jaxprefix.checkpoints")

PARTIAL, REMOVED, DAMAGED = ".partial", ".removed", ".damaged"


class Checkpoints:
    """The checkpoints of one run in one folder; use it in a `with` statement, or call `close`.

    With several processes, all of them must make the same calls in the same order; the folder must be one that all of
    them see.

    Args:
      folder: local path or bucket; created if need be.
      keep_latest: how many of the newest checkpoints are kept.
      best: whether the highest ("max") or the lowest ("min") metric is best; that checkpoint is kept as well. None:
        no checkpoint is better than another.
      read_only: look only; nothing is created, cleaned up or set aside.
      place: the run's folder, which must stay where it is while something is saved.

    Raises:
      UserError: the folder cannot be created or written.
    """

    def __init__(
        self,
        folder: Any,
        *,
        keep_latest: int = 2,
        best: Literal["max", "min"] | None = "max",
        read_only: bool = False,
        place: Place | None = None,
    ):
        if keep_latest < 1:
            raise UserError(f"keep_latest is {keep_latest}, but at least the newest checkpoint must be kept: use 1.")
        self.folder = as_path(folder)
        self._keep_latest, self._sign, self._read_only = keep_latest, {"max": 1, "min": -1, None: 0}[best], read_only
        self.place = place or Place()
        self._commit: threading.Thread | None = None
        self._failure: BaseException | None = None
        if not read_only:
            check_writable(self.folder)
            self._clean()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self.close()
        elif jax.process_count() == 1:  # several do not wait: the save may need one that is gone
            failure = self._join()
            if failure is not None and not isinstance(failure, FolderGone):  # the error under way matters more
                log.error("%s", failure)

    # Saving

    def save(
        self, step: int, state: Any, *, info: dict[str, Any], metric: float | None = None, wait: bool = False
    ) -> None:
        """Saves the state as it is now, in the background.

        The leaves are copied on their devices before the call returns, so their buffers may be donated at once. A save
        still under way is waited for first. A checkpoint of the same step is replaced.

        Args:
          step: number of steps done.
          state: pytree of `jax.Array`s, which may be sharded, of size 0, or typed random keys.
          info: whatever else belongs to the run, as JSON: configuration, backbone, history.
          metric: the value that decides which checkpoint is best; None or NaN: never best.
          wait: return only when the checkpoint is on the disk.

        Raises:
          UserError: this or the previous checkpoint could not be written; those from before are untouched.
          FolderGone: the folder was renamed or removed.
        """
        if self._read_only:
            raise ValueError("these checkpoints were opened with read_only=True")
        self.wait()
        named = records.named_leaves(state)
        record = Record(step, None if metric is None else float(metric), records.specs(named), {}, records.plain(info))
        leaves = copies(named)
        # One process leaves everything to the thread. Several must enter Orbax and the sum of digests from the thread
        # that also runs the steps, or their collectives could cross.
        what = f"the checkpoint of step {step}"
        with self.place.held(), writing(what, self.folder):
            started = self._start(step, leaves) if jax.process_count() > 1 else None

        def commit() -> None:
            staged = self._at(step, PARTIAL)
            try:
                with self.place.held(), writing(what, self.folder), silence_orbax():
                    finish, sums = started or self._start(step, leaves)
                    finish()
                    if jax.process_index() == 0:
                        records.write(staged, dataclasses.replace(record, digests=sums))
                        self.place.check()
                        put_folder(staged, self._at(step))
                        self._prune(step)
            except BaseException as error:
                self._failure = error
                with contextlib.suppress(Exception):
                    staged.rmtree()
                if isinstance(error, FolderGone):  # the array store makes folders that are gone
                    with contextlib.suppress(Exception):
                        self.folder.rmdir()
                        self.folder.parent.rmdir()

        self._commit = threading.Thread(target=commit, name=f"checkpoint-{step}")
        self._commit.start()
        if wait:
            self.wait()

    def wait(self) -> None:
        """Waits until nothing is being written; raises what went wrong in the background.

        With several processes it is raised where it happened: the others wait for that one, and it must end.
        """
        if self._commit is not None:
            failure = self._join()
            if failure is not None:
                raise failure
            _everywhere(True)

    def _join(self) -> BaseException | None:
        """Waits for the thread of this process, and gives what went wrong in it."""
        if self._commit is not None:
            self._commit.join()
        failure, self._commit, self._failure = self._failure, None, None
        return failure

    def close(self) -> None:
        """Waits for the save under way."""
        self.wait()

    def _start(self, step: int, leaves: dict[str, jax.Array]) -> tuple[Callable[[], Any], dict[str, str]]:
        """Begins Orbax's own save; the function returned waits for its end."""
        staged = self._at(step, PARTIAL)
        if jax.process_index() == 0:
            _remove(staged)
            staged.mkdir()
        with jax.transfer_guard("allow"):  # the loop may have forbidden unintended transfers; these are meant
            return start_saving(staged / "arrays", leaves), digests(leaves)

    def _prune(self, saved: int) -> None:
        """Removes what is neither among the newest, nor the best, nor just saved."""
        steps = self.steps()
        keep = {saved, *steps[-self._keep_latest :], *(step for step, _ in self._ranking()[:1])}
        for step in steps:
            if step not in keep:
                removed = self._at(step, REMOVED)
                _remove(removed)
                self._at(step).rename(removed)  # a half-removed checkpoint must not look like one
                removed.rmtree()

    def _clean(self) -> None:
        """Removes what a process that died left half-written or half-removed."""
        if jax.process_index() == 0:
            for path in list(self.folder.iterdir()):
                step = path.name.partition(".")[0]
                if step.isdecimal() and path.name == step + OLD:
                    recover_folder(self.folder / step)
                elif step.isdecimal() and path.name in (step + PARTIAL, step + REMOVED):
                    path.rmtree()
                elif path.name.startswith(PROBE):
                    path.unlink(missing_ok=True)
        _everywhere(True)

    def _at(self, step: int, suffix: str = "") -> Any:
        return self.folder / f"{step}{suffix}"

    # Reading

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first; reads no more than their names."""
        if not self.folder.exists():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def restore(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """The newest whole checkpoint: its step, state and info; None where there is none.

        A damaged one is reported to the log with the reason, set aside as `<step>.damaged`, and the one before it is
        taken.

        Args:
          abstract_state: pytree of `jax.ShapeDtypeStruct`s with shardings (or of arrays) as the state must be.

        Raises:
          UserError: the checkpoint was made with other settings (another structure, shape or dtype).
        """
        self.wait()
        return self._first_whole(self.steps()[::-1], abstract_state)

    def restore_best(self, abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Like `restore`, for the whole checkpoint with the best metric."""
        self.wait()
        return self._first_whole([step for step, _ in self._ranking()], abstract_state)

    def best(self) -> tuple[int, float] | None:
        """Step and metric of the best checkpoint; None where none has a metric. Reads no arrays."""
        return next(iter(self._ranking()), None)

    def read_info(self, step: int | None = None) -> dict[str, Any] | None:
        """The `info` of a checkpoint, without its arrays; None where there is none.

        Args:
          step: which one; None: the newest that has a readable record.

        Raises:
          UserError: there is no checkpoint of that step, or its record is damaged.
        """
        if step is not None:
            try:
                return records.read(self._at(step)).info
            except Damaged as error:
                known = ", ".join(map(str, self.steps())) or "none"
                raise UserError(
                    f"the checkpoint of step {step} in {self.folder} cannot be read: {error}; steps there: {known}."
                ) from error
        found = (self._record(step) for step in reversed(self.steps()))
        return next((record.info for record in found if record is not None), None)

    def _record(self, step: int) -> Record | None:
        """The record of a checkpoint; None, with a warning, when it is damaged."""
        try:
            return records.read(self._at(step))
        except Damaged as error:
            log.warning("the checkpoint %s is damaged: %s; it is skipped.", self._at(step), error)
            return None

    def _ranking(self) -> list[tuple[int, float]]:
        """Steps and metrics, best first, of equal ones the oldest first."""
        found = [self._record(step) for step in self.steps()] if self._sign else []
        ranked = [(r.step, r.metric) for r in found if r is not None and r.metric is not None and r.metric == r.metric]
        return sorted(ranked, key=lambda pair: -self._sign * pair[1])

    def _first_whole(self, steps: list[int], abstract_state: Any) -> tuple[int, Any, dict[str, Any]] | None:
        for step in steps:
            folder = self._at(step)
            found, reason = self._whole(step, abstract_state)
            if found is not None:
                return found
            log.warning(
                "the checkpoint %s is damaged: %s; it is skipped.",
                folder,
                reason or "another process says so",
            )
            if not self._read_only and jax.process_index() == 0:
                with contextlib.suppress(OSError):
                    _remove(self._at(step, DAMAGED))
                    folder.rename(self._at(step, DAMAGED))
        return None

    def _whole(self, step: int, abstract_state: Any) -> tuple[tuple[int, Any, dict[str, Any]] | None, str | None]:
        """A checkpoint, or why it is damaged; None for both where only another process finds it so.

        All processes go through the same stages: Orbax numbers its calls, and digests are summed over all of them.
        """
        folder, record, leaves, reason = self._at(step), None, None, None
        try:
            record = records.read(folder)
            records.check_same_leaves(record, records.specs(records.named_leaves(abstract_state)), self.folder)
        except Damaged as error:
            reason = str(error)
        if not _everywhere(reason is None) or record is None:
            return None, reason
        try:
            leaves = read(folder / "arrays", abstract_state)
        except Damaged as error:
            reason = str(error)
        if not _everywhere(reason is None) or leaves is None:
            return None, reason
        try:
            return (step, verified(leaves, record, abstract_state), record.info), None
        except Damaged as error:
            return None, str(error)


def _remove(folder: Any) -> None:
    if folder.exists():
        folder.rmtree()


def _everywhere(true_here: bool) -> bool:
    """Whether something is true in every process; also a meeting point of all of them."""
    if jax.process_count() == 1:
        return true_here
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(true_here))))
