"""The report of the rows, told before the first step."""

import logging

import jax

from jaxprefix.data.report import Report, report_table
from jaxprefix.errors import escaped

log = logging.getLogger("jaxprefix")
_told: list[Report] = []  # the last one: the many runs of a comparison have the same


def tell_report(report: Report) -> None:
    """Writes the report to the log, a message a line, what calls for something as warnings; on the first of several
    processes, and once for runs of the same rows that follow each other."""
    if jax.process_index() or _told == [report]:
        return
    _told[:] = [report]
    table = report_table(report)
    for line in table.lines():
        log.info("%s", line)
    for line in table.warnings:
        log.warning("%s", escaped(line))
