"""What is said of a kind of PEFT adapter (a `peft_type`): its settings, its tensors, and how it is read and written."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxprefix.exchange.layout import Tensors
from jaxprefix.methods.base import Method
from jaxprefix.models.backbones import Module
from jaxprefix.models.tuned import TunedModel
from jaxprefix.trees import Tree


class MethodRead(NamedTuple):
    """A method of PEFT in our terms: its numpy leaves, and the names of its tensors."""

    method: Any
    leaves: Tree
    known: set[str]


@dataclasses.dataclass(frozen=True)
class PeftType:
    """A kind of PEFT adapter.

    Attributes:
      name: `peft_type` of `adapter_config.json`.
      what: in words, with its article.
      methods: the classes of ours that it can hold; subclasses are other methods.
      settings: keys of `adapter_config.json` that this kind has beside the common ones.
      root: what its tensors have before the names of the base model's modules.
      write: from a model and its trainable tree to tensors (float32) and settings; refuses what PEFT would misread.
      read: from tensors, `adapter_config.json` and the backbone's module to the method.
    """

    name: str
    what: str
    methods: tuple[type[Method], ...]
    settings: frozenset[str]
    root: str
    write: Callable[[TunedModel, Tree], tuple[dict[str, np.ndarray], dict[str, Any]]]
    read: Callable[[Tensors, Mapping[str, Any], Module], MethodRead]
