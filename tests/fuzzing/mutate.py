"""Values, texts and bytes that nobody means, and small changes to those that somebody did."""

import copy
import json
import random
from typing import Any

CODE = "__import__('pathlib').Path('ran').write_text('x')"
STRINGS = [
    *(
        "",
        " ",
        "a",
        "the cat",
        "1",
        "1.0",
        "0.5",
        "-1",
        "nan",
        "inf",
        "True",
        "None",
        "O",
        "B-NAME",
        "[",
        "]",
        "[]",
        "{}",
    ),
    *("['a', 'b']", "['a' 'b']", "[1, 2]", "[None]", '["\\ud800"]', "{text}", "{q.text}", "{a[0]}", "{", "}", "{{}}"),
    *(
        "\u200b",
        "\ufeff",
        "a\u200bb",
        "\x00",
        "\x1b[31m",
        "\u202e",
        "\u2028",
        "\r\n",
        "\t",
        "a\nb",
        "\ud800",
        "\udfff\ud800",
    ),
    *(
        "é",
        "日本語",
        "😀",
        "𐀀",
        "İ",
        "ﬁ",
        "a" * 300,
        "x " * 200,
        "../../x",
        "/etc/passwd",
        "~",
        "file:///x",
        "gs://x/y",
    ),
    *("-", "--", "-1e400", "1e5", "0x10", "1_000", "٣", "\uff19", "+3", " 3", "3 ", "%s", "$HOME", "`id`", CODE),
]
NUMBERS = [
    *(0, 1, -1, 2, 3, 7, 64, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**63 - 1, 2**64, 10**30, -(10**30), 10**400),
    *(0.0, -0.0, 0.5, 1.0, 1.5, -0.5, 1e-300, 1e300, 1e38, 3.7, float("nan"), float("inf"), float("-inf")),
]


def string(draw: random.Random) -> str:
    """A text."""
    kind = draw.randrange(4)
    if kind < 2:
        return draw.choice(STRINGS)
    if kind == 2:
        return "".join(draw.choice(STRINGS)[:20] for _ in range(draw.randrange(1, 4)))
    return "".join(
        chr(draw.choice([draw.randrange(128), draw.randrange(0x3000), draw.randrange(0x110000)])) for _ in range(9)
    )


def value(draw: random.Random, depth: int = 0) -> Any:
    """A value of JSON, or one of Python's that JSON has no word for."""
    kind = draw.randrange(20)
    if kind < 7 or (depth > 3 and kind > 14):
        return string(draw)
    if kind < 12:
        return draw.choice(NUMBERS)
    if kind < 14:
        return draw.choice([True, False, None])
    if kind == 14:
        return draw.random() * 10 ** draw.randint(-5, 5)
    if kind < 18:
        return [value(draw, depth + 1) for _ in range(draw.randrange(4))]
    return {string(draw): value(draw, depth + 1) for _ in range(draw.randrange(3))}


def near(draw: random.Random, old: Any) -> Any:
    """A value of the same kind as another, mostly."""
    if draw.random() < 0.3:
        return value(draw)
    if isinstance(old, bool) or old is None:
        return draw.choice([True, False, None, 0, 1])
    if isinstance(old, int | float):
        return draw.choice([old + 1, old - 1, old * 2, -old, old / 2, float(old), str(old), *draw.sample(NUMBERS, 3)])
    if isinstance(old, str):
        return draw.choice([old + " ", old.upper(), old[:-1], old * 2, mutate_text(draw, old), string(draw)])
    if isinstance(old, list):
        changed = [copy.copy(item) for item in old]
        return draw.choice([changed[:-1], changed * 2, changed[::-1], [value(draw), *changed], [changed]])
    return value(draw)


def mutate_text(draw: random.Random, text: str) -> str:
    """A text with a character or a piece changed."""
    place = draw.randrange(len(text) + 1)
    length = draw.randrange(1, 4)
    return draw.choice(
        [
            text[:place] + string(draw)[:8] + text[place:],
            text[:place] + text[place + length :],
            text[place:] + text[:place],
        ]
    )


def mutate_tree(draw: random.Random, tree: Any, changes: int = 1) -> Any:
    """JSON with some values, keys or entries changed, anywhere in it."""
    tree = copy.deepcopy(tree)
    for _ in range(changes):
        places = [*_places(tree)]
        if not places:
            return value(draw)
        holder, key = draw.choice(places)
        kind = draw.randrange(8)
        if kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[mutate_text(draw, str(key))] = holder.pop(key)
        elif kind == 2 and isinstance(holder, dict):
            holder[string(draw)] = value(draw)
        elif kind == 3:
            holder[key] = [holder[key]] if draw.random() < 0.5 else {"a": holder[key]}
        elif kind < 6:
            holder[key] = near(draw, holder[key])
        else:
            holder[key] = value(draw)
    return tree


def _places(tree: Any) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, item in list(items):
        yield tree, key
        yield from _places(item)


def mutate_bytes(draw: random.Random, content: bytes) -> bytes:
    """Bytes with bits flipped, a piece cut out, doubled, moved or put in, or the end missing."""
    for _ in range(draw.choice([1, 1, 2, 5])):
        place = draw.randrange(len(content) + 1)
        length = draw.choice([1, 2, 4, 8, 64, 1000])
        piece = content[place : place + length]
        kind = draw.randrange(6)
        if kind == 0 and content:
            at = min(place, len(content) - 1)
            content = content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
        elif kind == 1:
            content = content[:place] + content[place + length :]
        elif kind == 2:
            content = content[:place] + piece + content[place:]
        elif kind == 3:
            content = content[:place] + draw.randbytes(min(length, 8)) + content[place + draw.choice([0, length]) :]
        elif kind == 4:
            content = (
                content[:place]
                + draw.choice([b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b'"', b"\\", b"[" * 2000])
                + content[place:]
            )
        else:
            content = content[:place]
    return content


def dumped(tree: Any) -> bytes:
    """JSON as Python writes it, which has NaN and halves of surrogate pairs."""
    return json.dumps(tree).encode()
