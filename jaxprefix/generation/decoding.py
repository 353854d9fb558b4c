"""How text is decoded, as one hashable value, and what can be refused before anything is compiled."""

import dataclasses
from typing import Annotated

from jaxprefix.errors import UserError
from jaxprefix.typed_json import register
from jaxprefix.values import Bounds, Count, Natural, NonNegative


@register
@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the next tokens are chosen: the best one (the default), drawn, or by a beam.

    Attributes:
      max_new_tokens: N, the most tokens that are made, a stop token included.
      min_new_tokens: how many tokens come before a stop token may.
      temperature: 0 takes the best token; above, tokens are drawn from `softmax(logits / temperature)`.
      top_k: draw from the k most probable tokens only; None for all.
      top_p: draw from the smallest set of most probable tokens whose probability reaches this, after `top_k` (nucleus
        sampling: Holtzman et al. 2020).
      beams: width of the beam; 1 for none. The search is that of Hugging Face's `generate` with its defaults.
      length_penalty: a beam's score is its sum of log-probabilities over its length to this power.
      stop: ids of tokens that end a text; None takes the tokenizer's end token where text is decoded.
      forbidden: ids of tokens that are never made.
      pad: id that fills what comes after a text's end.
    """

    max_new_tokens: Count = 40
    min_new_tokens: Natural = 0
    temperature: NonNegative = 0.0
    top_k: Count | None = None
    top_p: Annotated[float, Bounds(low=0, high=1, above=True)] | None = None
    beams: Count = 1
    length_penalty: float = 1.0
    stop: tuple[Natural, ...] | None = None
    forbidden: tuple[Natural, ...] = ()
    pad: Natural = 0

    @property
    def stops(self) -> tuple[int, ...]:
        """The stop tokens, none where none are given."""
        return self.stop or ()

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn at random."""
        return self.temperature > 0

    def check(self, vocab: int) -> None:
        """Refuses what cannot be, as `UserError`; `vocab` is the number of tokens, new words included."""
        if self.min_new_tokens > self.max_new_tokens:
            raise UserError(
                f"min_new_tokens is {self.min_new_tokens}; it must be at most max_new_tokens = {self.max_new_tokens}."
            )
        if not self.draws and (self.top_k is not None or self.top_p is not None):
            raise UserError("top_k and top_p choose what is drawn from; set a temperature above 0 with them.")
        if self.beams > vocab:
            raise UserError(f"{self.beams} beams are more than the {vocab} tokens of the vocabulary; take fewer.")
        if self.beams > 1 and self.draws:
            raise UserError("a beam takes the best tokens and a temperature draws them; set beams=1 or temperature=0.")
        for name, ids in (("stop", self.stops), ("forbidden", self.forbidden)):
            wrong = [i for i in ids if i >= vocab]
            if wrong:
                raise UserError(f"the {name} token {wrong[0]} is not one of the {vocab} tokens; correct its id.")
        if len({*self.forbidden, *(self.stops if self.min_new_tokens else ())}) >= vocab:
            raise UserError("every token of the vocabulary is forbidden; leave one.")
