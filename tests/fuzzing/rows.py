"""Rows of files and of memory, through every kind of task: read, checked, tokenised."""

import ast
import csv
import gzip
import io
import json
import random
import re
from pathlib import Path
from typing import Any

import jaxprefix as jp
from tests.data.conftest import letters
from tests.fuzzing.gate import Gate, Places, Trial
from tests.fuzzing.mutate import mutate_bytes, mutate_text, near, string, value

GOOD = {
    "text": ["a", "the cat", "alice sat on a mat", ""],
    "label": ["no", "yes", "1", "0"],
    "tokens": [["a", "b"], ["alice", "sat"], ["paris", "is"]],
    "tags": [["O", "B-NAME"], ["B-NAME", "O"], ["O", "O"]],
    "labels": [["x"], ["x", "y"], []],
    "score": [1, 0.5, 3, -2.5],
    "prompt": ["ab", "c", "a very long prompt"],
    "target": ["d", "ab"],
}
FIELDS = {  # of tasks, and values that they may have here
    "text": ["text", "prompt", "label", "nowhere"],
    "text_pair": [None, "prompt"],
    "label": ["label", "text"],
    "labels": [("no", "yes"), ("no", "yes", "1", "0"), ("x", "y"), ("O", "B-NAME"), ("no", "no"), ("a",)],
    "template": ["{text}", "{text} {prompt}", "{text}: {score}", "{{{text}}}", "text", "{text.x}", "{a[0]}", "{text"],
    "max_length": [1, 2, 3, 4, 6, 10],
    "truncation": [False],
    "metric": ["accuracy", "f1_macro"],
    "separator": ["|", "", "\n"],
    "max_prompt_length": [2, 5],
    "max_target_length": [1, 2],
}
TASKS = (
    *(jp.Classification, jp.MultiLabelClassification, jp.Regression, jp.Tagging),
    *(jp.MaskedLanguage, jp.CausalLanguage, jp.ConditionalGeneration),
)
KINDS = ("jsonl", "csv", "tsv", "parquet", "arrow", "memory")


class RowsGate(Gate):
    """Files and tables through `prepare`, single rows through `encode_texts`."""

    name = "rows"
    first_check = "the reader: the file is of its kind, and each row can be read"

    def __init__(self, folder: Path):
        from transformers import PreTrainedTokenizerFast

        from tests.training.worlds import write_tokenizer

        write_tokenizer(folder / "words")
        self.words, self.letters = PreTrainedTokenizerFast.from_pretrained(folder / "words"), letters()

    def draw(self, draw: random.Random, places: Places) -> Trial:
        task = draw.choice(TASKS)
        options = [name for name in FIELDS if name in task.__dataclass_fields__]
        fields = {name: draw.choice(FIELDS[name]) for name in options if draw.random() < 0.12}
        if "template" in fields and draw.random() < 0.2:
            fields["template"] = mutate_text(draw, fields["template"])
        rows = [{name: draw.choice(values) for name, values in GOOD.items()} for _ in range(draw.randint(2, 6))]
        task_columns = [name for name in GOOD if name in _reads(task)]
        for _ in range(draw.choice([0, 0, 1, 1, 2])):
            row, column = draw.choice(rows), draw.choice(task_columns)
            row[column] = near(draw, row[column]) if draw.random() < 0.5 else value(draw)
        if draw.random() < 0.05:
            rows[-1] = {string(draw): cell for cell in rows[-1].values()}
        kind, door = draw.choice(KINDS), "rows" if draw.random() < 0.25 else "file"
        source, content = (jp.InMemory(rows), repr(rows).encode()) if kind == "memory" else (None, b"")
        if source is None:
            path, content = _store(draw, rows, places.given, kind)
            source = jp.Files(str(path))
        # a task's own fields are checked when it is made, which is within the call
        tokenizer = self.letters if task in (jp.CausalLanguage, jp.ConditionalGeneration) else self.words
        reached = []

        def call() -> Any:
            made = task(source, **fields)
            if door == "rows":
                reached.append(True)
                asked = [{name: row.get(name) for name in made.columns} for row in rows]
                return made, asked, jp_encode(made, tokenizer, asked)
            _ = [*source.open("train")]
            reached.append(True)
            return made, None, jp_prepare(made, tokenizer)

        def right(found: Any) -> None:
            made, asked, examples = found
            known = asked if asked is not None else rows if kind == "memory" else _reread(path)
            check(made, known, examples, tokenizer, labelled=asked is None)

        given = {"task": task.__name__, **fields, "door": door, "kind": kind, "rows": rows, "content": content[:2000]}
        return Trial(given, len(content), call, right, lambda said: not reached)


def jp_prepare(task: Any, tokenizer: Any) -> Any:
    from jaxprefix.tasks import prepare

    return prepare(task, tokenizer)


def jp_encode(task: Any, tokenizer: Any, rows: list) -> Any:
    from jaxprefix.tasks import encode_texts

    return encode_texts(task, tokenizer, rows)


def _reads(task: type) -> set[str]:
    fields = task.__dataclass_fields__
    read = {fields[name].default for name in ("text", "label", "words", "tags", "prompt", "target") if name in fields}
    return {"prompt", "text", "score"} | {name for name in read if isinstance(name, str)}


def _store(draw: random.Random, rows: list[dict], folder: Path, kind: str) -> tuple[Path, bytes]:
    """The rows in a file, now and then a damaged one, or compressed; what Arrow itself refuses is JSON in its place."""
    if kind in ("parquet", "arrow"):
        import pyarrow as pa
        import pyarrow.feather
        import pyarrow.parquet as pq

        sink = io.BytesIO()
        try:
            table = pa.Table.from_pylist(rows)
            if kind == "parquet":
                pq.write_table(table, sink)
            else:
                with pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
            content = sink.getvalue()
        except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError):
            kind = "jsonl"
    if kind == "jsonl":
        content = "".join(json.dumps(row) + draw.choice(["\n", "\n", "\r\n", "\n\n"]) for row in rows).encode()
    elif kind in ("csv", "tsv"):
        names = list(dict.fromkeys(name for row in rows for name in row))
        stream = io.StringIO(newline="")
        plain = [{name: str(cell) for name, cell in row.items()} for row in rows]
        if kind == "csv":
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(plain)
        else:
            for row in [dict(zip(names, names, strict=True)), *plain]:
                stream.write("\t".join(row.get(name, "") for name in names) + "\n")
        content = stream.getvalue().encode(errors="surrogatepass")
    if draw.random() < 0.15:
        content = mutate_bytes(draw, content)
    path = folder / f"rows.{kind}"
    if draw.random() < 0.1:
        content, path = gzip.compress(content, mtime=0), folder / f"rows.{kind}.gz"
        if draw.random() < 0.2:
            content = mutate_bytes(draw, content)
    path.write_bytes(content)
    return path, content


# The oracle


def _reread(path: Path) -> list[dict]:
    """The rows of a file, by the libraries of its format."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        content, path = gzip.decompress(content), path.with_suffix("")
    if path.suffix == ".jsonl":
        return [json.loads(line.decode("utf-8-sig")) for line in content.split(b"\n") if line.strip()]
    if path.suffix == ".csv":
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        return list(csv.DictReader(lines))
    if path.suffix == ".tsv":
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    import pyarrow as pa
    import pyarrow.parquet as pq

    reader = pa.BufferReader(content)
    return (pq.read_table(reader) if path.suffix == ".parquet" else pa.ipc.open_file(reader).read_all()).to_pylist()


def spelled(label: Any) -> str:
    """A label's name: a float of whole numbers is one, bytes are UTF-8."""
    label = label.decode() if isinstance(label, bytes) else label
    return str(int(label)) if isinstance(label, float) else str(label)


def index_of(name: str, names: tuple[str, ...]) -> int:
    """A label's index: its name's, else the number that it is."""
    return names.index(name) if name in names else int(name)


def names_of(task: Any, found: list[str]) -> tuple[str, ...]:
    """The names of the labels: those given, else those found, sorted, as numbers where all are whole."""
    whole = all(name.removeprefix("-").isdigit() and name.isascii() for name in found)
    return task.labels or tuple(sorted(set(found), key=int if whole else None))


def text_of(task: Any, row: dict, column: str | None, template: str | None = None) -> str:
    """A text: a column, or a template with its columns put in, numbers as JSON writes them."""
    plain = {key: cell.decode() if isinstance(cell, bytes) else cell for key, cell in row.items()}
    if template is None:
        assert isinstance(plain[column], str)
        return plain[column]
    written = {key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in plain.items()}
    braces = r"(\{\{)|(\}\})|\{([^{}]*)\}"
    return re.sub(braces, lambda found: "{" if found[1] else "}" if found[2] else written[found[3]], template)


def words_of(cell: Any) -> list:
    """Words: a list, a string that reads as a list of strings, or a string between spaces and tabs."""
    cell = cell.decode() if isinstance(cell, bytes) else cell
    if isinstance(cell, str):
        for read in (json.loads, ast.literal_eval):
            try:
                found = read(cell.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list) and all(type(item) is str for item in found):
                return found
        return [word for word in cell.replace("\t", " ").split(" ") if word]
    return [word.decode() if isinstance(word, bytes) else word for word in cell]


def tags_of(cell: Any) -> list:
    """Tags: words, or whole numbers."""
    cell = cell.decode() if isinstance(cell, bytes) else cell
    if isinstance(cell, str) and cell.strip().startswith("["):
        return [*ast.literal_eval(cell.strip())]
    return words_of(cell)


def check(task: Any, rows: list[dict], examples: Any, tokenizer: Any, labelled: bool) -> None:
    """Asserts what is right of examples."""
    assert len(examples) == len(rows)
    cut = {"truncation": True, "max_length": task.max_length}
    kind = type(task)
    for index, row in enumerate(rows):
        ids = examples.row(index)["ids"].tolist()
        assert all(0 <= token < len(tokenizer) for token in ids)
        if kind is jp.Tagging:
            words = words_of(row[task.words])
            wanted = tokenizer(words, is_split_into_words=True, **cut) if words else tokenizer("", **cut)
            assert ids == wanted["input_ids"]
        elif kind is jp.CausalLanguage:
            end, room = tokenizer.eos_token_id, task.max_length - labelled
            assert ids == tokenizer(text_of(task, row, task.text))["input_ids"][:room] + [end] * labelled
        elif kind is jp.ConditionalGeneration:
            prompt = text_of(task, row, task.prompt, task.template) + task.separator
            before = tokenizer(prompt)["input_ids"]
            if len(before) <= task.max_prompt_length:
                assert ids[: len(before)] == before, (ids, before, prompt)
            if labelled:
                target = tokenizer(text_of(task, row, task.target))["input_ids"][: task.max_target_length - 1]
                assert ids[len(ids) - len(target) - 1 :] == [*target, tokenizer.eos_token_id]
        else:
            texts = [text_of(task, row, task.text, getattr(task, "template", None))]
            if task.text_pair is not None:
                pair = text_of(task, row, task.text_pair)
                texts += [pair] if pair or kind is not jp.MaskedLanguage else []
            assert ids == tokenizer(*texts, **cut)["input_ids"], (ids, texts, cut)
    if labelled:
        check_targets(task, rows, examples)


def check_targets(task: Any, rows: list[dict], examples: Any) -> None:
    """Asserts what is right of targets."""
    kind = type(task)
    values = {name: target.values for name, target in examples.targets.items()}
    if kind is jp.Classification:
        found = [spelled(row[task.label]) for row in rows]
        names = names_of(task, found)
        assert examples.labels == names
        assert values["labels"].tolist() == [index_of(name, names) for name in found]
    elif kind is jp.MultiLabelClassification:
        found = [[spelled(name) for name in row[task.label]] for row in rows]
        names = names_of(task, [name for row in found for name in row])
        assert examples.labels == names
        for has, row in zip(values["labels"], found, strict=True):
            assert {index for index, one in enumerate(has) if one} == {index_of(name, names) for name in row}
    elif kind is jp.Regression:
        numbers = [float(row[task.target]) for row in rows]
        scale, mean = examples.facts["scale"][0], examples.facts["mean"][0]
        for number, value in zip(numbers, values["values"][:, 0], strict=True):
            assert abs(value * scale + mean - number) <= 1e-5 * max(map(abs, numbers))
    elif kind is jp.Tagging:
        found = [[spelled(tag) for tag in tags_of(row[task.tags])] for row in rows]
        names = names_of(task, [tag for row in found for tag in row])
        assert examples.labels == names
        for index, tags in enumerate(found):
            labels = examples.row(index)["labels"].tolist()
            kept = [label for label in labels if label != -100]
            wanted = [index_of(tag, names) for tag in tags]
            assert kept == wanted[: len(kept)] or len(kept) < len(wanted)  # a word may have become no token
            if (
                all(word.isascii() and word.isalnum() for word in words_of(rows[index][task.words]))
                and not examples.cut[0]
            ):
                assert kept == wanted
