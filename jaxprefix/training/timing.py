"""Where the time of a run goes, and a closer look at a few of its steps."""

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import jax

log = logging.getLogger("jaxprefix")

Part = Literal["data", "step", "evaluation", "checkpoint"]
WARN_SHARE = 0.5  # of a run's time
WARN_STEPS = 20  # fewer tell nothing
PROFILED_FROM = 10  # steps after the start: the first ones compile


class Clock:
    """Seconds by part of the loop, as its process waits for them.

    `step` is the wait for the device's results: data and checkpoints that are made while the device computes cost a run
    nothing, and do not show up twice.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._steps, self._since = 0, time.perf_counter()
        self._first, self._warned = True, False
        self._counted, self._data, self._all = 0, 0.0, 0.0

    @contextlib.contextmanager
    def of(self, part: Part) -> Iterator[None]:
        """What is inside belongs to a part."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - begun

    def stepped(self) -> None:
        """Counts a step."""
        self._steps += 1

    def report(self) -> dict[str, float]:
        """Milliseconds per step by part since the last report, `milliseconds/all` among them; begins anew.

        Warns, once in a run, where more than half of the time goes into data; what comes before the first report, with
        its compilations, does not count.
        """
        now = time.perf_counter()
        steps, spent = max(self._steps, 1), now - self._since
        found = {f"milliseconds/{part}": 1e3 * seconds / steps for part, seconds in self._seconds.items()}
        found["milliseconds/all"] = 1e3 * spent / steps
        if not self._first:
            self._counted += self._steps
            self._data += self._seconds.get("data", 0.0)
            self._all += spent
        self._first = False
        if self._counted >= WARN_STEPS and self._data > WARN_SHARE * self._all and not self._warned:
            self._warned = True
            log.warning(
                "the run is bound by its input: %.0f %% of the time goes into making batches, and the device waits; "
                "take fewer distinct lengths (buckets), larger batches, or more processor cores per device.",
                100 * self._data / self._all,
            )
        self._seconds, self._steps, self._since = {}, 0, now
        return found


def memory_in_use(device: Any = None) -> dict[str, float]:
    """The peak of a device's memory in bytes, `memory/peak`; nothing where the backend does not tell (CPU)."""
    stats = (device or jax.local_devices()[0]).memory_stats() or {}
    return {"memory/peak": float(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {}


class Profile:
    """A trace of a few steps in `<folder>/profile`, for XProf or Perfetto, with the memory that is in use after them in
    `memory-<process>.prof` (for pprof).

    Args:
      steps: how many are traced; 0 for none.
      start: the step that the run begins with.
      folder: the run's.
    """

    def __init__(self, steps: int, start: int, folder: Path):
        self._first, self._last = start + PROFILED_FROM, start + PROFILED_FROM + steps
        self._folder, self._on, self._wanted = folder / "profile", False, steps > 0

    def at(self, step: int, state: Any) -> None:
        """Before a step: begins or ends the trace. The end waits for the state, so that the trace holds whole steps."""
        if not self._wanted:
            return
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._on = True
        elif step == self._last:
            self.close(state)

    def close(self, state: Any) -> None:
        """Ends the trace if it is on."""
        if not self._on:
            return
        self._on = self._wanted = False
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        jax.profiler.save_device_memory_profile(str(self._folder / f"memory-{jax.process_index()}.prof"))
        log.info("a trace of steps %d to %d lies in %s", self._first, self._last - 1, self._folder)
