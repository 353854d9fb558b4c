"""What a method is, and sums of methods: `Inducer(...) + LoRA(...)` is both at once.

Order is that of writing: where two parts act at the same place, the later one sees the result of the earlier one
(LoRA on the queries, then an inducer, is the published order whichever way it is written, since the inducer acts after
the projections). Virtual tokens of several prefixes stand side by side, and their position offsets add.
"""

import dataclasses
import functools
import operator
from typing import Any, ClassVar

import flax.linen as nn
from typing_extensions import override

from jaxprefix.contract import Contract, required
from jaxprefix.edits import NO_EDITS, Dims, Edits
from jaxprefix.errors import UserError
from jaxprefix.typed_json import register


class Method(Contract):
    """A tuning method: a frozen dataclass of hyperparameters that builds edits and knows no backbone.

    A class must have `build`, and may have the other members.

    Attributes:
      method_name: of its leaves in a sum, and of its row in a comparison; the class's name in snake case where the
        class says nothing.
      summary: what it is, in one line.
      usual_rate: the learning rate around which a comparison tries others; None for a method that none has a row for.
      size_fields: the fields (a length, ranks) that a budget of parameters decides together; none where a method has
        one size.
      moves: of a method that trains leaves of the backbone and nothing else, what they are; a backbone that has none
        of them is refused.

    Raises:
      UserError: where an instance is made of a class without `build`.
    """

    method_name: ClassVar[str]
    summary: ClassVar[str] = ""
    usual_rate: ClassVar[float | None] = None
    size_fields: ClassVar[tuple[str, ...]] = ()
    moves: ClassVar[str | None] = None
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]  # of the subclasses

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "method_name" not in vars(cls):
            cls.method_name = snake_case(cls.__name__)

    @classmethod
    def of_size(cls, size: int, like: "Method | None" = None) -> "Method":
        """The method with a size in its `size_fields`.

        Args:
          size: at least 1.
          like: a method whose other options this one takes, where that makes the two comparable.
        """
        return cls(**dict.fromkeys(cls.size_fields, size))

    @required
    def build(self, dims: Dims) -> nn.Module:
        """The Linen module whose `apply({"params": params})` returns `Edits`; refuses what cannot be, as UserError."""
        raise NotImplementedError

    def trains(self, path: str) -> bool:
        """Whether the backbone's leaf at `path` (`layers/q/bias`) moves from `frozen` to `trainable`."""
        return False

    def reads_output(self, name: str) -> bool:
        """Whether what the method does to the output of the linear map `name` depends on that output. A low-rank
        update that comes after it cannot be merged into the map's kernel then."""
        return False

    def conflict(self, other: "Method") -> str | None:
        """Why this method cannot stand beside `other` in a sum, or None."""
        return None

    def __add__(self, other: "Method") -> "Method":
        """Both methods at once; see `jaxprefix.methods.base.Combined`."""
        return combine(self, other)


@register
@dataclasses.dataclass(frozen=True)
class Combined(Method):
    """Several methods at once; their leaves lie under `method/<name of the part>`.

    Attributes:
      parts: two methods or more, none of them a sum.

    Raises:
      UserError: at construction, where a part cannot stand beside another.
    """

    method_name: ClassVar[str] = "combined"
    summary: ClassVar[str] = "several methods at once"

    parts: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise UserError(f"a sum of methods needs two parts or more, and this has {len(self.parts)}; add one.")
        for index, part in enumerate(self.parts):
            if isinstance(part, Combined):
                raise UserError("a part of a sum of methods is a sum itself; write them with + instead.")
            for other in self.parts[:index]:
                reason = part.conflict(other) or other.conflict(part)
                if reason:
                    raise UserError(
                        f"{type(other).__name__} and {type(part).__name__} cannot be combined: {reason}; "
                        "remove one of them."
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """The parts' names in the trainable tree: their `method_name`, a repeated one with its number."""
        found: list[str] = []
        for part in self.parts:
            name, count = part.method_name, 1
            while (numbered := name if count == 1 else f"{name}_{count}") in found:
                count += 1
            found.append(numbered)
        return tuple(found)

    @override
    def build(self, dims: Dims) -> nn.Module:
        return CombinedModule(tuple(part.build(dims) for part in self.parts), self.names)

    @override
    def trains(self, path: str) -> bool:
        return any(part.trains(path) for part in self.parts)


class CombinedModule(nn.Module):
    """The parts' modules, each with its leaves under its own name."""

    parts: tuple[nn.Module, ...]
    names: tuple[str, ...]

    @nn.compact
    def __call__(self) -> Edits:
        """The sum of the parts' edits."""
        made = [part.copy(parent=self, name=name)() for part, name in zip(self.parts, self.names, strict=True)]
        return functools.reduce(operator.add, made, NO_EDITS)


def make_edits(method: Method, params: Any, dims: Dims) -> Edits:
    """The edits of a method with these leaves, `[L, ...]`.

    Args:
      method: what is tuned.
      params: its leaves, as they lie under `method` in the trainable tree.
      dims: of the backbone.

    Raises:
      UserError: the method's module returns something else.
    """
    edits = method.build(dims).apply({"params": params})
    if not isinstance(edits, Edits):
        raise UserError(
            f"the module of {type(method).__name__} returns a {type(edits).__name__}; let it return its layer "
            "edits as `jp.Edits((edit,))`."
        )
    return edits


def combine(first: Method, second: Method) -> Combined:
    """The sum of two methods, flattened where one is a sum already."""
    return Combined((*parts_of(first), *parts_of(second)))


def parts_of(method: Method) -> tuple[Method, ...]:
    """The methods that a method consists of: itself, or the parts of a sum."""
    return method.parts if isinstance(method, Combined) else (method,)


def snake_case(name: str) -> str:
    """`AdaptivePrefix` to `adaptive_prefix`."""
    words = ""
    for index, letter in enumerate(name):
        starts = letter.isupper() and index > 0
        follows_lower = starts and name[index - 1].islower()
        before_lower = starts and index + 1 < len(name) and name[index + 1].islower()
        words += ("_" if follows_lower or before_lower else "") + letter.lower()
    return words
