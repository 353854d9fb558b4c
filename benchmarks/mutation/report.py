"""Results of `../mutants.py` as tables."""


def table(drawn: list[dict], results: dict[str, dict]) -> str:
    """Drawn, killed, survived and not found of each room, then the survivors."""
    lines = ["| room | drawn | killed | survived | not found |", "| --- | --- | --- | --- | --- |"]
    for room in dict.fromkeys(wanted["room"] for wanted in drawn):
        states = [_state(wanted, results) for wanted in drawn if wanted["room"] == room]
        counts = [len(states), *(_count(states, state) for state in ("killed", "survived", "not found"))]
        lines.append("| " + " | ".join(map(str, [room, *counts])) + " |")
    survivors = [wanted for wanted in drawn if _state(wanted, results).startswith("survived")]
    return "\n".join([*lines, "", "Survivors:", *(f"  {_named(wanted)}" for wanted in survivors)])


def compared(drawn: list[dict], old: dict[str, dict], new: dict[str, dict], reasons: dict[str, str]) -> str:
    """Two results as markdown: killed in each room, then who survived in either, with the reason where one is given."""
    lines = ["| room | drawn | killed, old | killed, new |", "| --- | --- | --- | --- |"]
    for room in dict.fromkeys(wanted["room"] for wanted in drawn):
        mine = [wanted for wanted in drawn if wanted["room"] == room]
        before, after = (_count([_state(wanted, results) for wanted in mine], "killed") for results in (old, new))
        lines.append(f"| {room} | {len(mine)} | {before} | {after} |")
    lines += ["", "| mutant | change | old | new | reason |", "| --- | --- | --- | --- | --- |"]
    for wanted in drawn:
        states = [_state(wanted, results) for results in (old, new)]
        if any(not state.startswith("killed") for state in states):
            change = f"`{_cell(wanted['expression'])}` to `{_cell(wanted['replacement'])}`"
            place = f"{wanted['id']}, `{wanted['file'].removeprefix('jaxprefix/')}`, `{wanted['function'] or 'module'}`"
            lines.append(f"| {place} | {change} | {states[0]} | {states[1]} | {_cell(reasons.get(wanted['id'], ''))} |")
    return "\n".join(lines)


def _state(wanted: dict, results: dict[str, dict]) -> str:
    line = results.get(wanted["id"])
    if line is None:
        return "not run"
    if line["how"] == "not found":
        return "not found"
    return f"{'killed' if line['killed'] else 'survived'}, {line['how']}"


def _count(states: list[str], state: str) -> int:
    return sum(each.startswith(state) for each in states)


def _named(wanted: dict) -> str:
    place = f"{wanted['id']} ({wanted['kind']}) {wanted['file']}::{wanted['function']}"
    return f"{place}: {wanted['expression']} -> {wanted['replacement']}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
