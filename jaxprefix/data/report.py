"""The report of a run's rows as a table of at most `LINES` lines; `tasks/reporting.py` computes what is in it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxprefix.errors import escaped

LINES = 25  # of a table with its head and its notes
NOTES = 3  # of a task
LARGEST = 1e12  # number whose digits are all shown
WIDEST = 24  # characters of a name or a text in it

Report = Mapping[str, Any]
"""As JSON: `columns` of the input, and by split under `splits` the `name` of its rows, `rows`, `examples`, `lengths`
(`shortest`, `median`, `longest` in tokens), `cut` (`rows`, labelled `words`), `empty` texts by column, `equal` (by
split, how many rows have the input of a row of it that comes before them), `tokens` (`all` but special ones, `unknown`
among them, None where the tokenizer knows every text) and what the task says of its `targets`."""


class Table(NamedTuple):
    """A report for people. Texts of the data are in it as they are, to be escaped where they are printed.

    Attributes:
      head: over the columns, the splits' names behind the first.
      rows: a name and a cell for each split.
      notes: sentences for below.
      warnings: those that call for something.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """The table as lines of text whose columns stand below each other, and then the notes, all escaped."""
        cells = [[escaped(cell) for cell in row] for row in (self.head, *self.rows)]
        widths = [max(len(row[place]) for row in cells) for place in range(len(self.head))]
        aligned = [
            "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
            for row in cells
        ]
        return [line.rstrip() for line in aligned] + [escaped(note) for note in self.notes]


def leaks(report: Report) -> list[str]:
    """Sentences on rows of a split whose input a split before it has too."""
    return [
        f"{count:,} of {found['rows']:,} rows of {split} have the input of a row of {other}: what is measured on "
        f"{split} counts them, so remove them from one of the two."
        for split, found in report["splits"].items()
        for other, count in found["equal"].items()
        if other != split and count
    ]


def report_table(report: Report) -> Table:
    """The report as a table; of long lists of numbers, labels for one, the largest are shown and the rest summed up."""
    splits = report["splits"]
    told = list(splits.values())
    rows = [("rows", *(f"{found['rows']:,}" for found in told))]
    if any(found["examples"] != found["rows"] for found in told):
        rows.append(("examples made of them", *(f"{found['examples']:,}" for found in told)))
    rows.append(("tokens, least / median / most", *(_lengths(found["lengths"]) for found in told)))
    rows.append(("rows cut", *(_share(found["cut"]["rows"], found["rows"]) for found in told)))
    if any(found["cut"]["words"] for found in told):
        rows.append(("words with a label cut off", *(f"{found['cut']['words']:,}" for found in told)))
    rows += _empty(told)
    for other in splits:
        cells = (_share(found["equal"][other], found["rows"]) if other in found["equal"] else "" for found in told)
        rows.append((f"input equal to a row of {other}", *cells))
    known = ["" if found["tokens"]["unknown"] is None else _share(*_unknown(found["tokens"])) for found in told]
    if any(known):
        rows.append(("unknown tokens", *known))
    warnings = leaks(report)
    notes, figures, groups = _told_by_task(told)
    # a warning may take two lines of a terminal
    room = LINES - 1 - len(rows) - len(notes) - 2 * len(warnings)
    if len(figures) > max(room - len(groups), 1):
        shown = figures[: max(room - len(groups), 1) - 1]
        figures = [*shown, (f"{len(figures) - len(shown)} other figures", *("" for _ in told))]
    rows += figures
    room -= len(figures)
    for place, (name, group) in enumerate(groups[: max(room, 0)]):
        later = min(len(groups) - place, room) - 1
        shown = _largest(name, group, room - later)
        rows += shown
        room -= len(shown)
    return Table(("data", *splits), tuple(rows), tuple(notes), tuple(warnings))


Group = tuple[str, Mapping[str, Sequence[Any]]]
"""Numbers of one kind by their names, for each split."""


def _told_by_task(told: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, ...]], list[Group]]:
    """What a task says of the targets: texts that are the same for all splits, lines of figures, and groups of them."""
    notes, figures, groups = [], [], []
    for name in dict.fromkeys(name for found in told for name in found["targets"]):
        values = [found["targets"].get(name) for found in told]
        if any(isinstance(value, Mapping) for value in values):
            groups += _groups(_short(name), values)
        elif isinstance(values[0], str) and values.count(values[0]) == len(values) and len(notes) < NOTES:
            notes.append(f"{_short(name)}: {values[0]}")
        else:
            figures.append((_short(name), *map(_cell, values)))
    return notes, figures, groups


def check_report(report: Any) -> None:
    """Refuses, as ValueError, what is no report."""
    try:
        report_table(report)
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"the report of the rows is no such report ({type(error).__name__}: {error})") from error


def _unknown(tokens: Mapping[str, int]) -> tuple[int, int]:
    return tokens["unknown"], tokens["all"]


def _lengths(found: Mapping[str, Any]) -> str:
    return f"{found['shortest']:,} / {found['median']:,g} / {found['longest']:,}"


def _share(count: int, whole: int) -> str:
    """A number and, where it is none of the ends, its share."""
    if not count or not whole:
        return f"{count:,}"
    percent = 100 * count / whole
    return f"{count:,} ({percent:.0f} %)" if percent >= 10 else f"{count:,} ({percent:.2g} %)"


def _empty(told: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A line for the column with most empty texts, and one for the others, where there are any."""
    counts = [found["empty"] for found in told]
    total = {column: sum(found.get(column, 0) for found in counts) for column in (counts[0] if counts else ())}
    first, *others = sorted(total, key=lambda column: -total[column]) or [""]
    if not total.get(first):
        return [("empty texts", *("0" for _ in told))]
    cells = (_share(count.get(first, 0), found["rows"]) for count, found in zip(counts, told, strict=True))
    lines = [(f"empty texts, {_short(first)}", *cells)]
    if any(total[column] for column in others):
        rest = (sum(found.get(column, 0) for column in others) for found in counts)
        lines.append(("empty texts, other columns", *(f"{count:,}" for count in rest)))
    return lines


def _groups(name: str, values: Sequence[Any]) -> list[Group]:
    """What a task says under one name, by split, as lists of numbers of each name below it."""
    maps = [value if isinstance(value, Mapping) else {} for value in values]
    keys = list(dict.fromkeys(key for found in maps for key in found))
    inner = [key for key in keys if any(isinstance(found.get(key), Mapping) for found in maps)]
    flat = {key: [found.get(key) for found in maps] for key in keys if key not in inner}
    own = [(name, flat)] if flat else []
    below = (_groups(f"{name} {_short(key)}", [found.get(key) for found in maps]) for key in inner)
    return [*own, *(group for groups in below for group in groups)]


def _largest(name: str, group: Mapping[str, Sequence[Any]], room: int) -> list[tuple[str, ...]]:
    """Lines for a group; of more counts than there is room for the largest, and of the rest the ends."""
    keys = list(group)
    if len(keys) > room:
        if all(isinstance(value, int) for values in group.values() for value in values if value is not None):
            keys.sort(key=lambda key: -sum(value or 0 for value in group[key]))
        keys, rest = keys[: room - 1], keys[room - 1 :]
    else:
        rest = []
    lines = [(f"{name}: {_short(key)}", *map(_cell, group[key])) for key in keys]
    if rest:
        columns = zip(*(group[key] for key in rest), strict=True)
        lines.append((f"{name}: {len(rest):,} others, each", *(_ends(column) for column in columns)))
    return lines


def _ends(values: Iterable[Any]) -> str:
    known = [value for value in values if isinstance(value, int | float)]
    if not known:
        return ""
    low, high = min(known), max(known)
    return _cell(low) if low == high else f"{_cell(low)} to {_cell(high)}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        exact = value.is_integer() or abs(value) >= 1e4
        return f"{value:,.0f}" if exact and abs(value) < LARGEST else f"{value:.4g}"
    return _short(str(value))


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 3]}..."
