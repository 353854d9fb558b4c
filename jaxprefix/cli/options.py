"""The command line's own options: what is outside their bounds is refused before JAX is imported."""

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any, NoReturn

from typing_extensions import override

from jaxprefix.errors import escaped


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose refusals, which quote what was given, hold no control characters."""

    @override
    def error(self, message: str) -> NoReturn:
        super().error(escaped(message))

    @override
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As `argparse` does, which makes an unchecked empty list of `--option=--`."""
        for arg in itertools.takewhile(lambda arg: arg != "--", args or ()):
            if arg.startswith("--") and arg.endswith("=--"):
                self.error(f"argument {arg[:-3]}: '--' is no value")
        return super().parse_known_args(args, namespace)


def whole(low: int = 1, high: int | None = None) -> Callable[[str], int]:
    """A type of `argparse` for whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < low or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number {_bounds(low, high)}")
        return number

    return read


def real(low: float | int, high: float | int | None = None, above: bool = False) -> Callable[[str], float]:
    """A type of `argparse` for finite numbers from `low`, or above it, to `high`."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        inside = number > low if above else number >= low
        if not math.isfinite(number) or not inside or (high is not None and number > high):
            raise argparse.ArgumentTypeError(f"{text!r} is no number {_bounds(low, high, above)}")
        return number

    return read


def _bounds(low: float | int, high: float | int | None, above: bool = False) -> str:
    return f"{'above' if above else 'of at least'} {low:g}" + ("" if high is None else f" and at most {high:g}")
