"""What a published configuration is."""

import dataclasses
from typing import Any, Literal

from jaxprefix.errors import UserError
from jaxprefix.methods import NewTokens
from jaxprefix.methods.base import Method
from jaxprefix.models.heads import Head
from jaxprefix.tasks.base import Task
from jaxprefix.training.config import Run
from jaxprefix.training.optimizer import Optimizer

Question = Literal["classification", "tagging", "multiple_choice", "generation"]


@dataclasses.dataclass(frozen=True)
class Published:
    """A method on a backbone with the settings that its authors, or those who compared with it, trained it by.

    Attributes:
      name: as `jp.published` has it.
      source: where it was published: the file and what it says, or the table.
      method: what is trained.
      backbone: hub name.
      question: the kind of task that it was published for.
      head: from hidden states to labels; None for the task's own with its defaults.
      optimizer: learning rate, schedule, decay.
      batch_size: rows of one update.
      epochs: passes over the training rows.
      patience: evaluations without progress after which it stops; None never stops early.
      hidden_dropout: rate in the backbone; None keeps the backbone's own.
      max_length: of the task, in tokens; None keeps the task's.
      label_smoothing: share of the target that is spread over all classes.
      seed: of the published run.
      percent: trained parameters in per cent of the backbone's, as published; None where they give none.
    """

    name: str
    source: str
    method: Method
    backbone: str
    question: Question
    head: Head | None
    optimizer: Optimizer
    batch_size: int
    epochs: float
    patience: int | None = None
    hidden_dropout: float | None = None
    max_length: int | None = None
    label_smoothing: float = 0.0
    seed: int = 0
    percent: float | None = None

    def run(self, task: Task, **changes: Any) -> Run:
        """The run of this configuration on a task.

        Args:
          task: the data; it gets this configuration's `max_length`. Tokens that its format adds are trained as well.
          changes: fields of `Run` in place of the published ones.

        Raises:
          UserError: the configuration is for another kind of task, or for one that cannot be run here.
        """
        if task.question != self.question:
            asked = self.question.replace("_", " ")
            raise UserError(
                f"{self.name} was published for {asked}, and {type(task).__name__} asks something else; take its "
                "method and optimizer for a run of your own, or another configuration."
            )
        if self.max_length is not None:
            task = dataclasses.replace(task, max_length=self.max_length)
        new = len(task.added_tokens)
        fields = {
            "task": task,
            "backbone": self.backbone,
            "method": self.method + NewTokens(new) if new else self.method,
            "head": self.head,
            "optimizer": self.optimizer,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "patience": self.patience,
            "hidden_dropout": self.hidden_dropout,
            "label_smoothing": self.label_smoothing,
            "seed": self.seed,
            "folder": f"runs/{self.name.lower()}",
        }
        return Run(**{**fields, **changes})
