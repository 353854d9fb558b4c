"""All that the methods of a model do to one backbone in one call."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.edits.dims import Dims
from jaxprefix.edits.layer_edit import LayerEdit
from jaxprefix.edits.pytree import edit, static
from jaxprefix.errors import UserError


@edit
class Edits:
    """All that a model's methods do to one backbone in one call.

    Attributes:
      layers: layer edits in the order of composition; each hook is applied in this order, each seeing the result of
        the one before.
      prompt: `[P, D]` embedding-level virtual tokens, put before the words' embeddings and taken off after the stack;
        prompts of composed edits stand side by side.
      position_offset: added to the positions of prompt and real tokens; offsets of composed edits add.
      row_offsets: added to the positions of each row beside that, where rows have different edits. Their values are
        not known while a program is traced, so the caller checks them against the position table.
      words: `[N, D]` new rows of the vocabulary, ids V to V + N - 1, of the lookup and of a tied head.
    """

    layers: tuple[LayerEdit, ...] = ()
    prompt: Float[Array, "P D"] | None = None
    position_offset: int = static(default=0)
    row_offsets: Int[Array, "B"] | None = None
    words: Float[Array, "N D"] | None = None

    def __add__(self, other: "Edits") -> "Edits":
        prompts = [edits.prompt for edits in (self, other) if edits.prompt is not None]
        prompt = jnp.concatenate(prompts) if prompts else None
        rows = [edits.row_offsets for edits in (self, other) if edits.row_offsets is not None]
        offset = self.position_offset + other.position_offset
        words = [edits.words for edits in (self, other) if edits.words is not None]
        return Edits(
            self.layers + other.layers,
            prompt,
            offset,
            sum(rows[1:], rows[0]) if rows else None,
            jnp.concatenate(words) if words else None,
        )

    @property
    def positions(self) -> int:
        """Positions that the edits take from the position table."""
        return self.position_offset + (0 if self.prompt is None else self.prompt.shape[0])


NO_EDITS = Edits()


def check_stacked(edits: Edits, dims: Dims) -> None:
    """Refuses edits that the stack cannot slice: classes without `@edit`, and leaves that are not stacked over layers
    (a `[P, D]` leaf would be sliced silently when P equals L)."""
    if edits.prompt is not None and edits.prompt.shape[-1:] != (dims.width,):
        raise UserError(
            f"the prompt of the edits has shape {jnp.shape(edits.prompt)}, but its rows must be as wide as the "
            f"backbone; make it [P, {dims.width}]."
        )
    for layer_edit in edits.layers:
        name = type(layer_edit).__name__
        if jax.tree_util.all_leaves([layer_edit]):
            raise UserError(f"the edit {name} is no pytree; put `@jp.edit` above its class, above a subclass as well.")
        for path, leaf in jax.tree_util.tree_leaves_with_path(layer_edit):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != dims.layers:
                raise UserError(
                    f"the leaf {jax.tree_util.keystr(path)} of the edit {name} has shape {jnp.shape(leaf)}, but its "
                    f"first axis must be the {dims.layers} layers of the backbone; "
                    "stack it with one entry per layer."
                )
