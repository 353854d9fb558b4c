"""The report of a run's rows on the terminal."""

from typing import Any

from jaxprefix.data.report import Report, report_table
from jaxprefix.errors import escaped


def print_report(report: Report, console: Any) -> None:
    """Prints a report as a table with its notes below."""
    from rich.table import Table
    from rich.text import Text

    found = report_table(report)
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(found.head):
        table.add_column(Text(escaped(name)), justify="right" if place else "left")
    for row in found.rows:
        table.add_row(*(Text(escaped(cell)) for cell in row))
    console.print(table)
    for note in found.notes:
        console.print(Text(escaped(note)))
    for note in found.warnings:
        console.print(Text(escaped(note), "yellow"))
