"""What `config.json` says of a classifier of transformers: `problem_type`, `id2label`; and what a person adds.

Which kinds of tasks there are by these words, the kinds themselves declare (`jaxprefix/tasks/foreign.py`).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxprefix.errors import UserError, listed
from jaxprefix.tasks.base import Task
from jaxprefix.tasks.foreign import find_kind, problem_types

SEQUENCES = "SEQ_CLS"  # PEFT's word for all classifiers of sequences
DEFAULT_LABELS = 2  # of transformers, where a config.json does not say how many there are


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """What is said of a classifier.

    Attributes:
      file: the `config.json` that says it.
      settings: what that file says; nothing of a base model alone (`of_base`) need hold for the classifier.
      of_base: whether the file is the base model's.
      asked: the `problem_type` that the person gave, by that name or by a task.
    """

    file: Path = Path("config.json")
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    of_base: bool = False
    asked: str | None = None

    def problem_type(self, outputs: int) -> str:
        """transformers' word for what C outputs answer; where nobody says it, transformers' own rule.

        Raises:
          UserError: an unknown word, or another one than that which was asked for.
        """
        said, known = self.settings.get("problem_type"), problem_types(SEQUENCES)
        for place, word in (("", self.asked), (f"{self.file} has ", said)):
            if word is not None and word not in known:
                raise UserError(
                    f"{place}problem_type = {word!r}{'' if place else ' is not known'}; it must be one of "
                    f"{listed(known, 9)}."
                )
        if None not in (said, self.asked) and said != self.asked and not self.of_base:
            raise UserError(f"{self.file} has problem_type = {said!r}, and not {self.asked!r}; ask for nothing else.")
        return self.asked or said or ("regression" if outputs == 1 else "single_label_classification")

    def kind(self, outputs: int) -> type[Task]:
        """The kind of task of a classifier of sequences with C outputs."""
        found = find_kind(SEQUENCES, self.problem_type(outputs))
        assert found is not None  # since the word is one of `problem_types`
        return found

    def labels(self, outputs: int | None) -> tuple[str, ...] | None:
        """Names in the order of the logits; a base model's only where there are C of them.

        Raises:
          UserError: `id2label` does not name 0, 1, 2, ...
        """
        names = read_labels(self.settings, self.file)
        return None if self.of_base and names is not None and len(names) != outputs else names

    @property
    def own(self) -> Mapping[str, Any]:
        """What the classifier's own file says."""
        return {} if self.of_base else self.settings

    @property
    def outputs(self) -> int:
        """C, by transformers' rules: the names in `id2label`, else `num_labels`, else 2."""
        names = read_labels(self.settings, self.file)
        count = self.settings.get("num_labels") or DEFAULT_LABELS if names is None else len(names)
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise UserError(f"{self.file} has num_labels = {count!r}; it must be a whole number, at least 1.")
        return count


def read_labels(settings: Mapping[str, Any], file: Path) -> tuple[str, ...] | None:
    """The names of `id2label` in the order of the logits; None where there are none.

    Raises:
      UserError: it does not name 0, 1, 2, ...
    """
    named = settings.get("id2label")
    if not named:
        return None
    try:
        by_number = {int(number): str(name) for number, name in named.items()}
        return tuple(by_number[index] for index in range(len(named)))
    except (AttributeError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{file} has id2label = {named!r}; let it name the labels 0, 1, 2, and so on.") from error


def asked_type(problem_type: str | None, task: Task | None) -> str | None:
    """The `problem_type` that a person asks for, by its name or by giving a task."""
    if problem_type is not None or task is None:
        return problem_type
    head = task.default_head()
    return head.problem_type if head.task_type == SEQUENCES else None


def written_config(base: Mapping[str, Any], task: Task, facts: Mapping[str, Any], problem_type: str | None) -> dict:
    """The `config.json` of a classifier: its base model's, with what is said of the classifier.

    Args:
      base: the dict of the base model's `config.json`.
      task: what the classifier answers.
      facts: what the task knows of its training rows.
      problem_type: transformers' word for it; None for classifiers of tokens.
    """
    kept = {key: value for key, value in base.items() if key not in ("architectures", "problem_type", "num_labels")}
    said = {} if problem_type is None else {"problem_type": problem_type}
    return {**kept, **task.hf_config(facts), **said}


def call_options(written: Mapping[str, Any], count: int) -> str:
    """What `from_pretrained` of transformers is to be told of a classifier, as Python, each with a comma before it."""
    names: Sequence[str] = tuple(written.get("id2label", {}).values())
    said = {"num_labels": count}
    said |= {"problem_type": written["problem_type"]} if "problem_type" in written else {}
    said |= {"id2label": dict(enumerate(names)), "label2id": dict(written["label2id"])} if names else {}
    return "".join(f",\n    {key}={value!r}" for key, value in said.items())
