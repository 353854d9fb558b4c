"""All that the methods of a model do to one backbone in one call."""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.edits.dims import Dims
from jaxprefix.edits.layer_edit import LayerEdit
from jaxprefix.edits.pytree import edit, static
from jaxprefix.errors import UserError


@edit
class StackEdits:
    """What methods do to the input of one stack of layers.

    Attributes:
      prompt, position_offset, row_offsets: see `Edits`.
    """

    prompt: Float[Array, "P D"] | None = None
    position_offset: int = static(default=0)
    row_offsets: Int[Array, "B"] | None = None

    def __add__(self, other: "StackEdits") -> "StackEdits":
        prompts = [edits.prompt for edits in (self, other) if edits.prompt is not None]
        rows = [edits.row_offsets for edits in (self, other) if edits.row_offsets is not None]
        return StackEdits(
            jnp.concatenate(prompts) if prompts else None,
            self.position_offset + other.position_offset,
            sum(rows[1:], rows[0]) if rows else None,
        )

    @property
    def empty(self) -> bool:
        """Whether nothing is done."""
        return self.prompt is None and self.row_offsets is None and self.position_offset == 0


@edit
class Edits:
    """All that a model's methods do to one backbone in one call.

    The first fields are of the backbone's default site (`Dims.site`), `sites` and `stacks` of its others.

    Attributes:
      layers: layer edits in the order of composition; each hook is applied in this order, each seeing the result of
        the one before.
      prompt: `[P, D]` embedding-level virtual tokens, put before the words' embeddings and taken off after the stack;
        prompts of composed edits stand side by side.
      position_offset: added to the positions of prompt and real tokens; offsets of composed edits add.
      row_offsets: added to the positions of each row beside that, where rows have different edits. Their values are
        not known while a program is traced, so the caller checks them against the position table.
      words: `[N, D]` new rows of the vocabulary, ids V to V + N - 1, of the lookup and of a tied head.
      sites: the layer edits at other sites, by the site's name, each stacked over the layers of its own site.
      stacks: what is done to the inputs of other stacks, by name.
    """

    layers: tuple[LayerEdit, ...] = ()
    prompt: Float[Array, "P D"] | None = None
    position_offset: int = static(default=0)
    row_offsets: Int[Array, "B"] | None = None
    words: Float[Array, "N D"] | None = None
    sites: dict[str, tuple[LayerEdit, ...]] = dataclasses.field(default_factory=dict)
    stacks: dict[str, StackEdits] = dataclasses.field(default_factory=dict)

    def __add__(self, other: "Edits") -> "Edits":
        words = [edits.words for edits in (self, other) if edits.words is not None]
        stack = self.stack + other.stack
        return Edits(
            self.layers + other.layers,
            stack.prompt,
            stack.position_offset,
            stack.row_offsets,
            jnp.concatenate(words) if words else None,
            {name: self.sites.get(name, ()) + other.sites.get(name, ()) for name in {**self.sites, **other.sites}},
            {
                name: self.stacks.get(name, StackEdits()) + other.stacks.get(name, StackEdits())
                for name in {**self.stacks, **other.stacks}
            },
        )

    @property
    def positions(self) -> int:
        """Positions that the edits take from the position table of the default stack."""
        return self.position_offset + (0 if self.prompt is None else self.prompt.shape[0])

    @property
    def stack(self) -> StackEdits:
        """What is done to the input of the default stack."""
        return StackEdits(self.prompt, self.position_offset, self.row_offsets)

    def at(self, site: str) -> "Edits":
        """What is done at another site than the default one, as the edits of a backbone whose default site it is."""
        stack = self.stacks.get(site, StackEdits())
        return Edits(self.sites.get(site, ()), stack.prompt, stack.position_offset, stack.row_offsets)

    def placed(self, site: str) -> "Edits":
        """The edits of the default site at another one.

        Raises:
          UserError: they have a site already, or are new words, which belong to none.
        """
        if self.sites or self.stacks:
            raise UserError(f"these edits have sites already ({', '.join(self.sites)}); place each method once.")
        if self.words is not None:
            raise UserError(f"new words belong to no site such as {site!r}; add their method without jp.At.")
        stacks = {} if self.stack.empty else {site: self.stack}
        return Edits(sites={site: self.layers} if self.layers else {}, stacks=stacks)


NO_EDITS = Edits()


def check_stacked(edits: Edits, dims: Dims) -> None:
    """Refuses edits that a stack cannot slice: classes without `@edit`, and leaves that are not stacked over the layers
    of their site (a `[P, D]` leaf would be sliced silently when P equals L); and what a site does not have."""
    for site in {**edits.sites, **edits.stacks}:
        if site == dims.site:
            raise UserError(f"{site!r} is the backbone's default site; give its edits as jp.Edits((edit,)).")
        _check_site(edits.at(site), dims.at(site))
    _check_site(edits, dims)


def _check_site(edits: Edits, dims: Dims) -> None:
    if edits.prompt is not None and edits.prompt.shape[-1:] != (dims.width,):
        raise UserError(
            f"the prompt of the edits has shape {jnp.shape(edits.prompt)}, but its rows must be as wide as the "
            f"backbone; make it [P, {dims.width}]."
        )
    if dims.attention_only and not edits.stack.empty:
        raise UserError(
            f"the site {dims.site!r} is an attention alone, without positions or an input of its own; take "
            "position_offset=False there, and no prompt."
        )
    for layer_edit in edits.layers:
        name = type(layer_edit).__name__
        if jax.tree_util.all_leaves([layer_edit]):
            raise UserError(f"the edit {name} is no pytree; put `@jp.edit` above its class, above a subclass as well.")
        if dims.attention_only and layer_edit.needs_layer():
            raise UserError(
                f"the edit {name} acts at the MLP or the end of the layer, and the site {dims.site!r} is an attention "
                "alone; place its method at a stack."
            )
        for path, leaf in jax.tree_util.tree_leaves_with_path(layer_edit):
            if jnp.ndim(leaf) == 0 or leaf.shape[0] != dims.layers:
                raise UserError(
                    f"the leaf {jax.tree_util.keystr(path)} of the edit {name} has shape {jnp.shape(leaf)}, but its "
                    f"first axis must be the {dims.layers} layers of the backbone; "
                    "stack it with one entry per layer."
                )
