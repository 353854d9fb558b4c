"""The answers of a self-check, and their table."""

import dataclasses
import io
from typing import Any, Literal

from jaxprefix.errors import escaped

Status = Literal["passed", "failed", "warning", "not applicable"]


@dataclasses.dataclass(frozen=True)
class CheckItem:
    """One question that was asked.

    Attributes:
      name: what was looked at.
      status: what came of it; a `warning` is no failure.
      measured: what was found.
      remedy: one sentence of what to do, unless it passed.
    """

    name: str
    status: Status
    measured: str
    remedy: str = ""


@dataclasses.dataclass(frozen=True)
class Check:
    """The answers to all questions; `print` and `rich` show them as a table."""

    items: tuple[CheckItem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(item.status != "failed" for item in self.items)

    def __getitem__(self, name: str) -> CheckItem:
        return next(item for item in self.items if item.name == name)

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        colours = {"passed": "green", "failed": "bold red", "warning": "yellow", "not applicable": "dim"}
        table = Table("check", "", "measured", box=None, pad_edge=False)
        for item in self.items:
            remedy = f"; {item.remedy}" if item.remedy else ""
            name, measured = (Text(escaped(text)) for text in (item.name, item.measured + remedy))
            table.add_row(name, Text(item.status, colours[item.status]), measured)
        return table

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        Console(file=text, width=120).print(self)
        return text.getvalue().rstrip()
