"""What a call does beside answering: writes, network, processes, code; and how much memory it takes.

The audit hook stays for the life of the process, since Python removes none; it looks only between `begin` and `end`.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WRITES = {  # event -> which of its arguments are paths that change
    "open": (0,),
    "os.mkdir": (0,),
    "os.rename": (0, 1),
    "os.remove": (0,),
    "os.rmdir": (0,),
    "os.link": (0, 1),
    "os.symlink": (1,),
    "os.truncate": (0,),
    "os.chmod": (0,),
    "os.chown": (0,),
    "os.utime": (0,),
    "os.setxattr": (0,),
    "shutil.rmtree": (0,),
    "sqlite3.connect": (0,),
}
NETWORK = {
    *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo"),
    *("socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo", "urllib.Request"),
}
PROCESSES = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}
CODE = {"compile", "exec", "import", "ctypes.dlopen", "pickle.find_class", "marshal.load"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Watch:
    """The audit hook of this process; make one.

    Args:
      allowed: folders beside those of a trial where writes are let through (stores of compiled programs).
    """

    def __init__(self, allowed: Sequence[Path] = ()):
        self._always = tuple(str(Path(path).resolve()) for path in allowed)
        self._free: tuple[str, ...] = ()
        self._given = ""
        self._temporary: Path | None = None
        self._on = self._inside = False
        self._seen: list[str] = []
        sys.addaudithook(self._hook)

    def begin(self, places: Any) -> None:
        """Looks from now on."""
        self._free = (*self._always, *(str(path.resolve()) for path in places[1:]))
        self._given, self._temporary = str(places.given.resolve()), places.temporary
        self._seen, self._on = [], True

    def end(self) -> list[str]:
        """Looks no more; what was done that may not be."""
        self._on = False
        left = sorted(path.name for path in self._temporary.iterdir()) if self._temporary is not None else []
        if left:
            self._seen.append(f"left in the temporary folder: {', '.join(left)}")
            for name in left:
                _remove(self._temporary / name)
        return self._seen

    def _hook(self, event: str, args: tuple) -> None:
        if not self._on or self._inside:
            return
        if event not in WRITES and event not in NETWORK and event not in PROCESSES and event not in CODE:
            return
        self._inside = True  # what the look itself does is not looked at
        try:
            wrong = self._wrong(event, args)
            if wrong is not None and wrong not in self._seen:
                self._seen.append(wrong)
        finally:
            self._inside = False

    def _wrong(self, event: str, args: tuple) -> str | None:
        if event in NETWORK or event in PROCESSES:
            return f"{event} {args[:3]!r}"[:300]
        if event in CODE:
            return self._code(event, args)
        if event == "open" and not _writes(args[1], args[2]):
            return None
        for place in WRITES[event]:
            path = self._path(args[place])
            if path is not None and not self._is_free(path):
                return f"{event} {path}"
        return None

    def _code(self, event: str, args: tuple) -> str | None:
        if event == "pickle.find_class":
            return f"pickle of {args[0]}.{args[1]}" if args[0] not in ("numpy", "builtins", "copyreg") else None
        if event == "exec":
            file = getattr(args[0], "co_filename", None)
        else:
            file = args[0] if event == "ctypes.dlopen" else args[1] if len(args) > 1 else None
        if isinstance(file, bytes):
            file = os.fsdecode(file)
        if isinstance(file, str) and self._given and os.path.realpath(file).startswith(self._given + os.sep):
            return f"{event} of {file}"
        return None

    def _path(self, value: Any) -> str | None:
        if isinstance(value, int) or value is None:  # a file that is open already
            return None
        path = os.path.abspath(os.fsdecode(value))
        # links are followed but for the last part, which may be a link that is itself replaced
        return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))

    def _is_free(self, path: str) -> bool:
        if path == os.devnull or (f"{os.sep}__pycache__{os.sep}" in path and not path.startswith(self._given)):
            return True  # byte code of what Python imports
        if os.path.basename(path) == "__pycache__" and not path.startswith(self._given):
            return True
        real = os.path.realpath(path)
        return any(one == place or one.startswith(place + os.sep) for one in (path, real) for place in self._free) and (
            not os.path.exists(real) or any((real + os.sep).startswith(place + os.sep) for place in self._free)
        )


def _writes(mode: Any, flags: Any) -> bool:
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(isinstance(flags, int) and flags & WRITING)


def _remove(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def measure_peak() -> tuple[int, Callable[[], int]]:
    """Bytes that this process holds, and a function that gives the most that it has held since.

    Linux forgets the peak on request; where that is not possible, the peak of the whole life is taken, which can only
    miss what was smaller than one before.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        import resource

        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # noqa: E731
        return peak(), peak
    return _status("VmRSS"), lambda: _status("VmHWM")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
