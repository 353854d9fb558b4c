"""What a gate is to the fuzzer, and one trial of it.

A trial is drawn from a generator of its own, seeded by gate, seed and number, so that any can be made again alone. Its
input is refused in one sentence, or what comes of it is what an oracle of a few lines says; all else is a fault.
"""

import dataclasses
import random
import reprlib
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from jaxprefix.errors import UserError
from tests.fuzzing.watch import Watch, measure_peak

SECONDS = 60
FREE, TIMES = 300 * 10**6, 20  # bytes of peak memory that a call may take, and times the input's size above that

Outcome = Literal["sentence", "right", "traceback", "wrong", "no sentence", "no answer", "memory", "forbidden"]
FAULTS = ("traceback", "wrong", "no sentence", "no answer", "memory", "forbidden")
"""`forbidden` is a write elsewhere, a look-up on a network, a process that was started, or code that was run."""


class Places(NamedTuple):
    """Folders of a trial; `given` holds its input, and the product may write to the others alone."""

    given: Path
    run: Path
    out: Path
    cache: Path
    temporary: Path


@dataclasses.dataclass
class Trial:
    """One input.

    Attributes:
      given: what is shown beside a fault.
      size: of the input, in bytes.
      call: gives it to the product.
      right: asserts what is right of the value that came back; nothing of it is watched.
      first: whether a refusal, in these words, is the gate's first check's.
    """

    given: Any
    size: int
    call: Callable[[], Any]
    right: Callable[[Any], None]
    first: Callable[[str], bool]


class Gate:
    """A gate of the package.

    Attributes:
      name: as the tests and the table have it.
      first_check: what its first check is, in words.
    """

    name: ClassVar[str]
    first_check: ClassVar[str]

    def __init__(self, folder: Path):
        """Makes what all trials share, in a folder that the product may read."""

    def draw(self, draw: random.Random, places: Places) -> Trial:
        """The input of a trial."""
        raise NotImplementedError


class Result(NamedTuple):
    """What became of a trial; `said` is the sentence, or what went wrong."""

    number: int
    outcome: Outcome
    past: bool
    said: str = ""


class NoAnswer(BaseException):
    """The time is up."""


def run_trial(gate: Gate, seed: int, number: int, places: Places, watch: Watch) -> Result:
    """Trial `number` of a gate."""
    for place in (places.given, places.run, places.out):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    trial = gate.draw(random.Random(f"{gate.name} {seed} {number}"), places)
    before, peak = measure_peak()
    watch.begin(places)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    refusal, failure, value = None, None, None
    try:
        value = trial.call()
    except UserError as error:
        refusal = str(error)
    except NoAnswer:
        failure = ("no answer", f"none in {SECONDS} s")
    except BaseException:
        failure = ("traceback", traceback.format_exc(limit=-12))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    done = watch.end()
    used = peak() - before
    past = refusal is None or not trial.first(refusal)
    if failure is None and refusal is None:
        try:
            trial.right(value)
        except Exception:
            failure = ("wrong", traceback.format_exc(limit=-8))
    if failure is None and refusal is not None and (wrong := what_is_wrong_with(refusal)):
        failure = ("no sentence", f"{wrong}: {refusal!r}")
    if done:
        failure = ("forbidden", "; ".join(done[:5]))
    elif used > FREE + TIMES * trial.size:
        failure = ("memory", f"{used / 1e6:.0f} MB for an input of {trial.size} bytes")
    if failure is not None:
        return Result(number, failure[0], past, f"{failure[1]}\ngiven: {shown(trial.given)}")
    return Result(number, "right", True) if refusal is None else Result(number, "sentence", past, refusal)


def what_is_wrong_with(sentence: str) -> str | None:
    """Why a refusal is no single sentence that can be printed; None where it is one."""
    if "\n" in sentence.strip() or not sentence.strip():
        return "several lines, or none"
    if not sentence.endswith((".", "?", ")")):
        return "no full stop"
    if len(sentence) > 2000:
        return f"{len(sentence)} characters"
    try:
        sentence.encode("utf-8")
    except UnicodeEncodeError:
        return "no UTF-8"
    return None


def prepare_signals() -> None:
    """A call that takes too long ends in `NoAnswer`."""

    def late(*_: object) -> None:
        raise NoAnswer

    signal.signal(signal.SIGALRM, late)


_short = reprlib.Repr()
_short.maxlevel, _short.maxdict, _short.maxlist, _short.maxtuple = 8, 60, 40, 40
_short.maxstring = _short.maxother = 600


def shown(given: Any) -> str:
    """An input for a person."""
    return _short.repr(given)
