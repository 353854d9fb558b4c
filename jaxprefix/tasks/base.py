"""What a task is: a value that says what rows become, which head answers, what is measured, and what is told.

A kind of task is a file: a frozen dataclass with the fields `source`, `max_length` and `metric` that derives from
`Task`, and its head where no other serves. docs/adding_a_task.md writes one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxprefix.contract import Contract, required
from jaxprefix.data.examples import Examples, TargetSpec
from jaxprefix.data.rows import Rows
from jaxprefix.data.source import Source
from jaxprefix.errors import UserError, listed
from jaxprefix.models.heads import Head
from jaxprefix.tasks.tokenizing import Encoded
from jaxprefix.typed_json import is_registered, register

Facts = Mapping[str, Any]
"""What a task knows of its training rows, as JSON: `labels`, the names in the order of the logits, for one."""
RowReader = Callable[[Mapping[str, Any], int], Mapping[str, Any]]
"""From a row and its number to values by names."""
T = TypeVar("T", bound=type)


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What the compiled evaluation gave for every example of a split, in their order.

    Attributes:
      outputs: of the head (`Head.outputs`), `[examples, ...]`; shorter sequences are padded (`Head.fills`).
      targets: what batches held under the names of `Task.targets`, padded likewise (`TargetSpec.fill`).
      rows: the number of the row that each example was made of.
      groups: the group of each example; None where there are none.
      facts: what the task knows of its training rows.
      cut: how many rows were cut, and how many words with a label went with that (`Examples.cut`).
    """

    outputs: Mapping[str, np.ndarray]
    targets: Mapping[str, np.ndarray]
    rows: Int[np.ndarray, " examples"]
    groups: Int[np.ndarray, " examples"] | None
    facts: Facts
    cut: tuple[int, int] = (0, 0)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of all examples of a split, computed on the host: never a mean of per-batch values.

    Attributes:
      value: from what was evaluated to the figure; or to several by the names of what they belong to, the one for all
        under `""`; or to None where it cannot be known. One that is not finite is never the best.
      higher_is_better: whether more of it is better.
    """

    value: Callable[[Evaluated], float | Mapping[str, float] | None]
    higher_is_better: bool = True


class Task(Contract):
    """A kind of task. One of your own is registered with `jp.register_task`.

    Attributes:
      source: where the rows come from.
      max_length: longest sequence in tokens.
      metric: the name of the metric that chooses the best checkpoint, one of `metrics`.
      question: the word for what is asked, which the heads that answer it have too (`Head.task`).
      stack: the backbone that it needs, `encoder` or `decoder`; None for either.
      packed: whether a sequence of up to `max_length` tokens holds several texts; all targets are per token then.
      choices: C, how many sequences a row has where that is fixed or for a plan of the largest; None for `[B, T]`.
      cache_version: a number that is raised when the same task would encode the same rows otherwise; where it is None
        encoded rows are not kept on disk.
      not_cached: fields that do not change what rows become.
      text_fields: fields that name columns of texts.

    Raises:
      UserError: at construction, where a required member is missing.
    """

    source: Source
    max_length: int
    metric: str

    question: ClassVar[str] = ""
    stack: ClassVar[Literal["encoder", "decoder"] | None] = None
    packed = False
    choices = None
    cache_version: ClassVar[int | None] = None
    not_cached: ClassVar[tuple[str, ...]] = ("source", "metric")
    text_fields: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # of the subclasses

    # What rows become

    @property
    @required
    def columns(self) -> tuple[str, ...]:
        """The columns that make up the input, without those of the targets."""
        raise NotImplementedError

    @property
    def target_columns(self) -> tuple[str, ...]:
        """The columns that hold what is to be answered, none of which may be an input."""
        return ()

    @required
    def encode(self, tokenizer: Any, rows: Rows, facts: Facts | None) -> Iterator[Encoded]:
        """The rows as tokens and targets, a chunk at a time; without facts there are no targets, as in prediction.

        Raises:
          UserError: a row that cannot be, named by file and line or row (`Rows.locate`).
        """
        raise NotImplementedError

    @required
    def targets(self, count: int | None) -> dict[str, TargetSpec]:
        """The arrays beside the tokens, by the names that batches and the head give them; `count` is C."""
        raise NotImplementedError

    def learns_from_rows(self, rows: Rows) -> bool:
        """Whether `fit` needs the training rows when these are those of another split."""
        return False

    def fit(self, rows: Rows) -> Facts:
        """What there is to know of training rows before they are encoded, as JSON; kept with the adapter."""
        return {}

    def count(self, facts: Facts | None) -> int | None:
        """C, the number of labels or of what else the logits are for; without facts as far as the task itself says."""
        return None

    @classmethod
    def imported(
        cls,
        source: Source,
        max_length: int,
        count: int | None,
        names: Sequence[str] | None,
        config: Mapping[str, Any],
    ) -> "Task":
        """The task of an adapter that another library trained.

        Args:
          source: one without rows.
          max_length: of its texts, in tokens.
          count: C, as its tensors have it.
          names: of the labels in the order of the logits, where they are known.
          config: what its `config.json` says, where it has one of its own (`hf_config`).
        """
        kind: Any = cls  # a subclass, which has these fields
        return kind(source, max_length=max_length).with_names(
            names or tuple(f"LABEL_{index}" for index in range(count or 0))
        )

    def with_names(self, names: Sequence[str] | None, otherwise: Sequence[str] | None = None) -> "Task":
        """The task with these names of labels; with `otherwise` where neither they nor its own are given."""
        return self

    def imported_facts(self, count: int | None) -> Facts:
        """What `fit` would have found for it."""
        return {}

    def hf_config(self, facts: Facts) -> dict[str, Any]:
        """What the `config.json` of a classifier of transformers says of it, beside the head's `problem_type`."""
        return {}

    def output_units(self, facts: Facts) -> tuple[np.ndarray, np.ndarray] | None:
        """Factors and summands `[C]` that bring the head's outputs to the units in which other libraries' heads answer;
        None where they are in these."""
        return None

    def open_rows(self, split: str) -> Rows:
        """The rows of `train`, `validation` or `test`."""
        return self.source.open(split)

    # What a report says of rows

    def input_reader(self, rows: Rows) -> RowReader:
        """From a row and its number to the row's input, by the names of its parts: rows of equal values are equal, and
        a value without a visible character is an empty text."""
        columns = self.columns
        return lambda row, index: {column: row.get(column) for column in columns}

    def report_targets(self, examples: Examples) -> dict[str, Any]:
        """What there is to say of the targets of a split, as JSON: numbers and texts by their names, or counts by the
        names of what is counted; without a word of its own how many entries there are."""
        return {f"{name}, per {target.spec.per}": target.count() for name, target in examples.targets.items()}

    def finish(self, examples: Examples, tokenizer: Any) -> Callable[..., dict[str, np.ndarray]] | None:
        """What is done to every batch (`Examples.finish`)."""
        return None

    def extend_tokenizer(self, tokenizer: Any, vocab: int) -> Any:
        """The tokenizer with the task's own tokens, whose ids begin at `vocab`; a copy where there are any."""
        return tokenizer

    @property
    def added_tokens(self) -> tuple[str, ...]:
        """Tokens that the task adds to the vocabulary, in the order of their ids."""
        return ()

    def batch_shapes(self, rows: int, tokens: int, count: int | None, typed: bool) -> dict[str, jax.ShapeDtypeStruct]:
        """A batch of B rows and T tokens as shapes; `typed` says whether it has token types."""
        sequences = (rows,) if self.choices is None else (rows, self.choices)
        by_token = {"input_ids": jnp.int32, "attention_mask": jnp.bool_}
        by_token |= {"token_type_ids": jnp.int32} if typed else {}
        by_token |= {"segment_ids": jnp.int32} if self.packed else {}
        batch = {name: jax.ShapeDtypeStruct((*sequences, tokens), dtype) for name, dtype in by_token.items()}
        batch["weight"] = jax.ShapeDtypeStruct((rows,), jnp.float32)
        for name, spec in self.targets(count).items():
            first = {"row": (rows,), "sequence": sequences, "token": (*sequences, tokens)}[spec.per]
            batch[name] = jax.ShapeDtypeStruct((*first, *spec.shape), spec.dtype)
        return batch

    # What outputs become

    @classmethod
    @required
    def default_head(cls) -> Head:
        """The head that answers where a run names none."""
        raise NotImplementedError

    def accepts(self, head: Head) -> bool:
        """Whether a head answers it."""
        return head.task == self.default_head().task

    @property
    @required
    def metrics(self) -> Mapping[str, Metric]:
        """What is measured, by name."""
        raise NotImplementedError

    def calibrate(self, evaluated: Evaluated) -> Facts:
        """The facts with what is chosen on the validation rows (thresholds, for one)."""
        return evaluated.facts

    def measure(self, evaluated: Evaluated) -> dict[str, float]:
        """All metrics of a split, the task's own first; `cut_rows` and `cut_words` where there are any."""
        main = self.metric
        found = {name: self.metrics[name].value(evaluated) for name in (main, *(n for n in self.metrics if n != main))}
        if found[main] is None:
            raise ValueError(f"{main} needs outputs that the head does not give")
        measured: dict[str, float] = {}
        for name, value in found.items():
            parts = value if isinstance(value, Mapping) else {} if value is None else {"": value}
            measured.update({f"{name}/{part}" if part else name: float(one) for part, one in parts.items()})
        return measured | cut_metrics(evaluated.cut)

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the task's own metric is better."""
        return self.metrics[self.metric].higher_is_better

    def answers(self, evaluated: Evaluated, inputs: Sequence[Any], scores: bool) -> list[dict[str, Any]]:
        """What a person is told, as JSON, for each of the rows that were asked about.

        Args:
          evaluated: outputs of the examples that the rows were made into, and the targets of unlabelled rows.
          inputs: the rows as they were given.
          scores: whether every answer holds the scores of all that could have been answered.
        """
        raise self._no_answers()

    def check_answers(self) -> None:
        """Refuses, as UserError, to answer where the kind of task has no `answers`, before anything is computed."""
        if type(self).answers is Task.answers:
            raise self._no_answers()

    def _no_answers(self) -> UserError:
        remedy = "call generate for its texts" if self.writes else "use its hidden states"
        return UserError(f"an adapter for {type(self).__name__} predicts no labels; {remedy}.")

    @property
    def writes(self) -> bool:
        """Whether the answer is a text, which a decoder writes."""
        return self.default_head().writes

    @property
    def stops(self) -> tuple[str, ...]:
        """Tokens of which each ends a text that is decoded, beside the end."""
        return ()

    def measure_texts(self, split: str, write: Callable[[list[dict[str, Any]]], list[str]]) -> dict[str, float]:
        """Metrics of the texts that a model writes for a split; `write` makes a text of each row."""
        return {}

    # What is refused

    def check(self) -> None:
        """Refuses, as UserError, what no data is needed to refuse."""

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuses, as UserError, a tokenizer that lacks what the task needs."""

    def check_training_rows(self, examples: Examples, name: str) -> None:
        """Refuses, as UserError, training rows from which nothing can be learned; `name` is that of the split."""


def cut_metrics(cut: tuple[int, int]) -> dict[str, float]:
    """What was cut of a split (`Examples.cut`) as metrics: `cut_rows` and `cut_words` where there are any."""
    return {name: float(count) for name, count in zip(("cut_rows", "cut_words"), cut, strict=True) if count}


def check_task(task: Task, head: Head | None, smoothing: float) -> None:
    """Refuses, as UserError, a task or a head that is not registered or not made for the other."""
    for part, decorator in ((task, "register_task"), (head, "register_head")):
        if part is not None and not is_registered(type(part)):
            raise UserError(
                f"{type(part).__name__} is not registered, so no checkpoint could hold it; decorate its class with "
                f"@jp.{decorator}."
            )
    if task.metric not in task.metrics:
        raise UserError(
            f"{type(task).__name__} has no metric {task.metric!r}; choose one of {listed(task.metrics, 9)}."
        )
    expected = task.default_head()
    if head is not None and not task.accepts(head):
        raise UserError(
            f"{type(head).__name__} does not answer the task {type(task).__name__}; "
            f"take {type(expected).__name__}, or remove head."
        )
    answering = expected if head is None else head
    if smoothing and not answering.smooths:
        raise UserError(
            f"{type(answering).__name__} has no labels over which a target could be spread; set label_smoothing=0."
        )
    check_columns(task)
    task.check()


def check_columns(task: Task) -> None:
    """Refuses, as UserError, a task whose input holds the answer."""
    both = [column for column in task.columns if column in task.target_columns]
    if both:
        raise UserError(
            f"{type(task).__name__} reads the column {both[0]!r} as input and as what is to be answered, so it would "
            "train on the answer; name another column for one of them."
        )


def check_stack(task: Task, causal: bool, backbone: str) -> None:
    """Refuses, as UserError, a task for decoders on an encoder, and the other way round."""
    name = type(task).__name__
    if task.stack == "decoder" and not causal:
        raise UserError(f"{name} needs a decoder and {backbone} is an encoder; take one such as 'tiny-decoder'.")
    if task.stack == "encoder" and causal:
        raise UserError(f"{name} needs an encoder and {backbone} is a decoder; take one such as 'tiny-encoder'.")


def register_task(cls: T) -> T:
    """Makes a kind of task of your own known to runs, checkpoints and adapters; a class decorator above `@dataclass`.

    Raises:
      UserError: it is no frozen dataclass that derives from `jp.Task`, lacks a field, or its name is taken.
    """
    if not issubclass(cls, Task) or not dataclasses.is_dataclass(cls):
        raise UserError(f"{cls.__name__} is no task; let it be a frozen dataclass that derives from jp.Task.")
    for name in ("source", "metric"):
        if name not in cls.__dataclass_fields__:
            raise UserError(f"{cls.__name__} has no field {name}, which every task has; add it.")
    return register(cls)
