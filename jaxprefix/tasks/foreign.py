"""How other libraries call kinds of tasks: by the words that heads declare (`Head.task_type`, `Head.problem_type`)."""

from jaxprefix.tasks import load_kinds
from jaxprefix.tasks.base import Task
from jaxprefix.typed_json import registered


def find_kind(task_type: str, problem_type: str | None = None) -> type[Task] | None:
    """The kind of task whose own head answers to these words; the package's kinds come before others.

    Args:
      task_type: PEFT's word.
      problem_type: transformers' word; None for any.
    """
    return next(iter(_kinds(task_type, problem_type)), None)


def problem_types(task_type: str) -> tuple[str, ...]:
    """transformers' words for kinds of one `task_type`, in alphabetical order."""
    words = {kind.default_head().problem_type for kind in _kinds(task_type, None)}
    return tuple(sorted(word for word in words if word is not None))


def _kinds(task_type: str, problem_type: str | None) -> list[type[Task]]:
    load_kinds()
    found = []
    for kind in registered(Task):
        head = kind.default_head()
        asked = problem_type in (None, head.problem_type)
        if head.task == kind.question and head.task_type == task_type and asked:
            found.append(kind)
    return sorted(found, key=lambda kind: not kind.__module__.startswith("jaxprefix."))
