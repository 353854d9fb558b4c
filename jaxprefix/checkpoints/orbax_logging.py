"""Silence of Orbax and absl while they work for us, whatever the person's own logging is set to."""

import contextlib
import logging
import threading
from collections.abc import Iterator

_NAMES = ("absl", "orbax")
_lock = threading.Lock()
_inside = 0
_levels: dict[str, int] = {}


@contextlib.contextmanager
def silence_orbax() -> Iterator[None]:
    """Inside, the loggers "absl" and "orbax" show only critical messages; threads may use it at the same time."""
    global _inside
    with _lock:
        if _inside == 0:
            for name in _NAMES:
                _levels[name] = logging.getLogger(name).level
                logging.getLogger(name).setLevel(logging.CRITICAL)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for name in _NAMES:
                    logging.getLogger(name).setLevel(_levels[name])
