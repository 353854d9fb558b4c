"""The sizes of a backbone, and the dropout rates of one call."""

import dataclasses
from typing import Any, NamedTuple

from jaxprefix.errors import UserError


@dataclasses.dataclass(frozen=True)
class Dims:
    """The sizes and constants of a backbone that a method or a head may ask for (see the legend in `jaxprefix`).

    They are those of one *site*, a place where edits act. A stack of layers is one (`self` in a model of one stack,
    `encoder`, `decoder`): it has an attention, an MLP and an end of layer. A second attention in a stack's layers is
    another (`cross`), which has neither of the latter. `at` gives the sizes of the model's other sites.
    """

    layers: int  # L
    heads: int  # H
    kv_heads: int  # K
    width: int  # D
    head_width: int  # E
    mlp_width: int
    vocab: int  # V
    positions: int  # the number of real and virtual positions that the position table can serve
    norm_eps: float = 1e-12  # of the layer norms, the masked-LM head's included
    head_activation: str = "gelu"  # of the masked-LM head's transform
    initializer_range: float = 0.02  # standard deviation of the backbone's own initialisation
    hidden_dropout: Any = 0.0  # the rate that methods and heads take when theirs is `None`
    attention_dropout: float = 0.0  # that of the attention weights, and of the inducers' weights
    causal: bool = False  # whether a query sees only the tokens before it
    gated_mlp: bool = False  # whether the MLP has a third map, `gate`, whose activation multiplies `up`
    logit_softcap: float | None = None  # what bounds the logits of the vocabulary
    tied: bool = True  # whether the head of a language model is the word table
    site: str = "self"  # where these sizes hold; edits without a site act at that of the backbone's own `dims`
    attention_only: bool = False  # whether the site is an attention alone, without an MLP or an end of layer
    others: "tuple[Dims, ...]" = ()  # of the model's other sites

    def at(self, site: str) -> "Dims":
        """The sizes of a site of the model.

        Raises:
          UserError: the model has no site of that name.
        """
        for dims in (self, *self.others):
            if dims.site == site:
                return dims
        known = ", ".join(repr(dims.site) for dims in (self, *self.others))
        raise UserError(f"this backbone has no site {site!r}; choose one of {known}.")

    @property
    def maps(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of every linear map of a layer, by the names that `project` gets."""
        heads, kv_heads = self.heads * self.head_width, self.kv_heads * self.head_width
        attention = {
            "q": (self.width, heads),
            "k": (self.width, kv_heads),
            "v": (self.width, kv_heads),
            "o": (heads, self.width),
        }
        if self.attention_only:
            return attention
        return {
            **attention,
            **({"gate": (self.width, self.mlp_width)} if self.gated_mlp else {}),
            "up": (self.width, self.mlp_width),
            "down": (self.mlp_width, self.width),
        }


class Rates(NamedTuple):
    """Dropout rates of one call as arrays, in place of the numbers that backbone and method were built with, so that
    one program serves them all; None leaves a number as it is."""

    hidden: Any = None
    attention: Any = None
    method: Any = None


BUILT_RATES = Rates()
"""Every rate as it was built."""
