"""A method at a named site of a model: `At("cross", PTuningV2(...))`."""

import dataclasses
from typing import ClassVar

import flax.linen as nn
from typing_extensions import override

from jaxprefix.edits import Dims, Edits
from jaxprefix.errors import UserError
from jaxprefix.methods.base import Combined, Method
from jaxprefix.typed_json import register


@register
@dataclasses.dataclass(frozen=True)
class At(Method):
    """A method at a site of a model of several (`encoder`, `decoder`, `cross`); without it a method is at the default.

    The method knows no site: it is built from the sizes there. Its leaves lie where the method's alone would lie; in a
    sum under its own name, the site's before the method's: `method/cross_p_tuning_v2/keys`.

    Attributes:
      site: a name of `Dims.at`.
      method: what is placed, no sum; write `At("cross", a) + At("cross", b)` for several.

    Raises:
      UserError: at construction, for a sum, a placed method, or one that moves leaves of the backbone, which no site
        owns.
    """

    summary: ClassVar[str] = "a method at a named site of a model of several stacks"

    site: str
    method: Method

    def __post_init__(self) -> None:
        name = type(self.method).__name__
        if isinstance(self.method, Combined | At):
            raise UserError(f"jp.At({self.site!r}, ...) holds a {name}; place each part on its own and add them.")
        if type(self.method).trains is not Method.trains:
            raise UserError(f"{name} trains leaves of the backbone, which belong to no site; write it without jp.At.")

    @property
    def method_name(self) -> str:
        """Of its leaves in a sum."""
        return f"{self.site}_{self.method.method_name}"

    @override
    def build(self, dims: Dims) -> nn.Module:
        module = self.method.build(dims.at(self.site))
        return module if self.site == dims.site else AtModule(module, self.site)

    def conflict(self, other: Method) -> str | None:
        """As that of the methods, at one site; at different ones they are apart."""
        return self.method.conflict(other.method) if isinstance(other, At) and other.site == self.site else None


class AtModule(nn.Module):
    """The module of a method, whose edits act at a site."""

    inner: nn.Module
    summary: ClassVar[str] = "a method at a named site of a model of several stacks"

    site: str

    @override
    def setup(self) -> None:
        nn.share_scope(self, self.inner)  # its leaves lie where this module's would

    def __call__(self) -> Edits:
        """The method's edits, placed at the site."""
        return self.inner().placed(self.site)
