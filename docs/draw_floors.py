"""Draws the rooms of the package on their floors, from the code: `python docs/draw_floors.py` writes docs/floors.svg.

The floors are those that `tests/test_house.py` holds, a room's line the first sentence of its docstring, and the thin
lines are the imports between rooms.
"""

import ast
import sys
import textwrap
from html import escape
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests import house  # noqa: E402

WIDTH, HEIGHT, ROOM, GAP, MARGIN = 1180, 92, 76, 10, 20


def summary(room: str) -> str:
    """The first sentence of a room's docstring."""
    text = ast.get_docstring(house.modules()[room]) or ""
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".:")


def draw() -> str:
    """The picture as SVG."""
    floors = len(house.FLOORS)
    height = floors * HEIGHT + 2 * MARGIN
    boxes, places = [], {}
    for level, rooms in enumerate(house.FLOORS):
        top = height - MARGIN - (level + 1) * HEIGHT + (HEIGHT - ROOM) / 2
        width = (WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)) / len(rooms)
        for index, room in enumerate(rooms):
            left = MARGIN + index * (width + GAP)
            places[room] = (left + width / 2, top)
            lines = textwrap.wrap(summary(room), max(int(width / 6.6), 12))[:3]
            words = "".join(
                f'<text x="{left + 10:.0f}" y="{top + 36 + 14 * row:.0f}" class="words">{escape(line)}</text>'
                for row, line in enumerate(lines)
            )
            boxes.append(
                f'<rect x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{ROOM}" rx="5"/>'
                f'<text x="{left + 10:.0f}" y="{top + 19:.0f}" class="room">{room}</text>{words}'
            )
    lines = [
        f'<line x1="{places[room][0]:.0f}" y1="{places[room][1] + ROOM:.0f}" '
        f'x2="{places[other][0]:.0f}" y2="{places[other][1]:.0f}"/>'
        for room, others in sorted(house.room_imports().items())
        if room
        for other in sorted(others)
    ]
    style = (
        "rect{fill:#f6f4ee;stroke:#2f3b4a}.room{font:bold 14px sans-serif;fill:#1b2733}"
        ".words{font:11px sans-serif;fill:#445}line{stroke:#2f6f9f;stroke-opacity:.16}svg{background:#fff}"
    )
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    body = "\n".join([*lines, *boxes])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n<style>{style}</style>\n{body}\n</svg>\n'


if __name__ == "__main__":
    (ROOT / "docs" / "floors.svg").write_text(draw())
