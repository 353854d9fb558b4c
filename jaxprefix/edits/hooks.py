"""The hooks of one layer's edits as one, which is what a backbone's layer calls."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from jaxprefix.attention import VirtualTokens
from jaxprefix.edits import Context, LayerEdit


class LayerHooks:
    """The hooks of one layer's edits as one: applied in order, each seeing the result of the one before.

    Results are cast to the dtype of what they replace. One object serves one layer's call: it remembers which channels
    an edit appended to the values, to hand it their averages.

    Args:
      edits: the edits, their leaves those of this layer.
      ctx: of the layer; each edit's own key is put into it.
      keys: one typed key for each edit, or None when nothing is random.
    """

    def __init__(self, edits: tuple[LayerEdit, ...], ctx: Context, keys: Any = None):
        self._edits = [
            (edit, ctx if keys is None else dataclasses.replace(ctx, key=keys[index]))
            for index, edit in enumerate(edits)
        ]
        self._widths: list[tuple[int, int]] = []

    def virtual_tokens(self, x: Float[Array, "B T D"]) -> VirtualTokens | None:
        """The virtual tokens of all edits side by side, or None where there are none."""
        found = [edit.virtual_tokens(x, ctx) for edit, ctx in self._edits]
        found = [tokens for tokens in found if tokens is not None]
        return VirtualTokens.concatenate(found) if found else None

    def before_project(self, name: str, x: Float[Array, "*B I"]) -> Float[Array, "*B I"]:
        """The input of the linear map `name`, as the edits replace it."""
        for edit, ctx in self._edits:
            x = edit.before_project(name, x, ctx).astype(x.dtype)
        return x

    def project(self, name: str, x: Float[Array, "*B I"], y: Float[Array, "*B O"]) -> Float[Array, "*B O"]:
        """The output `y` of the linear map `name` at input `x`, as the edits replace it."""
        for edit, ctx in self._edits:
            y = edit.project(name, x, y, ctx).astype(y.dtype)
        return y

    def replace_values(
        self, k: Float[Array, "B S K E"], v: Float[Array, "B S K E"], virtual: VirtualTokens | None = None
    ) -> tuple[Float[Array, "B S K E2"], VirtualTokens | None]:
        """The values, and the virtual tokens with zeros in the channels that edits appended."""
        width, appended, start = v.shape[-1], [], v.shape[-1]
        for edit, ctx in self._edits:
            replaced = edit.replace_values(k, v, ctx).astype(v.dtype)
            v = replaced[..., :width]
            appended.append(replaced[..., width:])
            self._widths.append((start, start + appended[-1].shape[-1]))
            start = self._widths[-1][1]
        if start == width:
            return v, virtual
        if virtual is not None:
            padding = [(0, 0)] * (virtual.values.ndim - 1) + [(0, start - width)]
            virtual = dataclasses.replace(virtual, values=jnp.pad(virtual.values, padding))
        return jnp.concatenate([v, *appended], axis=-1), virtual

    def after_attention(
        self,
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        v: Float[Array, "B S K E2"],
        o: Float[Array, "B T H E2"],
        lse: Float[Array, "B H T"],
    ) -> tuple[Float[Array, "B T H E"], list[Float[Array, "B T D"]]]:
        """The heads' outputs without the appended channels, and what is added after the output projection."""
        extras = []
        width = self._widths[0][0] if self._widths else o.shape[-1]
        averages, o, v = o, o[..., :width], v[..., :width]
        for index, (edit, ctx) in enumerate(self._edits):
            own = slice(*self._widths[index]) if self._widths else slice(0, 0)
            seen = o if own.start == own.stop else jnp.concatenate([o, averages[..., own]], axis=-1)
            replaced, extra = edit.after_attention(q, k, v, seen, lse, ctx)
            o = replaced.astype(o.dtype)
            if extra is not None:
                extras.append(extra.astype(o.dtype))
        return o, extras

    def after_mlp(self, z: Float[Array, "B T D"], f: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The MLP's output `f` at its input `z`, before the residual dropout, as the edits replace it."""
        for edit, ctx in self._edits:
            f = edit.after_mlp(z, f, ctx).astype(f.dtype)
        return f

    def after_mlp_dropout(self, z: Float[Array, "B T D"], f: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The MLP's output `f` at its input `z`, after the residual dropout, as the edits replace it."""
        for edit, ctx in self._edits:
            f = edit.after_mlp_dropout(z, f, ctx).astype(f.dtype)
        return f

    def after_block(self, h: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The layer's output, as the edits replace it."""
        for edit, ctx in self._edits:
            h = edit.after_block(h, ctx).astype(h.dtype)
        return h

    def observe(
        self,
        x: Float[Array, "B T D"],
        q: Float[Array, "B T H E"],
        k: Float[Array, "B S K E"],
        lse: Float[Array, "B H T"],
    ) -> tuple[dict[str, Array], ...]:
        """What every edit shows, in their order."""
        return tuple(edit.observe(x, q, k, lse, ctx) for edit, ctx in self._edits)
