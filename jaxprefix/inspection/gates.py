"""The gates of a finished run of Adaptive Prefix Tuning as a probe: which virtual tokens of which layers it uses, and
P-Tuning v2 on that pattern (Zhang et al. 2023, section on the gates as a probe, and its table of variants).

PT-2* of the paper is P-Tuning v2 trained anew with a pattern that the gates gave, PT-2+ is P-Tuning v2 with 1.5 times
the length, which has as many parameters as the gated prefix. The paper tells neither the threshold nor what the
gates are averaged over; here g_ij is the mean of |lambda_i alpha_ij| over the rows of a split, and token j of layer i
is kept where g_ij is at least tau times the largest of them.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxprefix.adapters.adapter import Adapter, load_adapter
from jaxprefix.data import evaluation_batches
from jaxprefix.errors import UserError
from jaxprefix.methods import PTuningV2, parts_of
from jaxprefix.methods.base import Combined, Method
from jaxprefix.methods.prefix import PrefixMethod
from jaxprefix.methods.prefix_edits import GatedPrefix
from jaxprefix.tasks import prepare

_SHARED = tuple(field.name for field in dataclasses.fields(PTuningV2))


@dataclasses.dataclass(frozen=True, eq=False)
class Pattern:
    """Which virtual tokens are kept.

    Attributes:
      kept: bool `[L, P]`.
      tau: the threshold, in parts of the largest gate.
    """

    kept: np.ndarray
    tau: float

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of kept tokens of each layer. No more of the pattern is needed: virtual tokens of one layer are
        exchangeable, so a prefix trained anew on any pattern is one of these lengths."""
        return tuple(int(count) for count in self.kept.sum(1))


@dataclasses.dataclass(frozen=True, eq=False)
class Gates:
    """Gates averaged over rows, float64.

    Attributes:
      alpha: mean of alpha `[L, P]`, 0 where a layer has no such token.
      layer_scale: lambda `[L]`; 1 where the method has none.
      gate: mean of |lambda alpha| `[L, P]`, 0 where a layer has no such token.
      lengths: virtual tokens of each layer.
      rows: how many were averaged over.
      trained: the method that was trained.
      position_offset: how far that method shifted the real tokens.
    """

    alpha: np.ndarray
    layer_scale: np.ndarray
    gate: np.ndarray
    lengths: tuple[int, ...]
    rows: int
    trained: Method
    position_offset: int

    @property
    def present(self) -> np.ndarray:
        """Which tokens there are, bool `[L, P]`."""
        return np.arange(self.gate.shape[1]) < np.array(self.lengths)[:, None]

    def pattern(self, keep: float = 0.65, *, tau: float | None = None) -> Pattern:
        """The tokens that gates leave open.

        Args:
          keep: share of the tokens that remain, more than 0 and at most 1; ties may leave a few more.
          tau: the threshold itself, in place of `keep`: token j of layer i remains where g_ij >= tau max(g).
        """
        present, highest = self.present, float(self.gate.max())
        if tau is None:
            if not 0 < keep <= 1:
                raise UserError(f"keep is {keep}; it is the share of tokens that remain, more than 0 and at most 1.")
            count = max(1, round(keep * int(present.sum())))
            tau = float(np.sort(self.gate[present])[-count]) / highest if highest else 0.0
        kept = present & (self.gate >= tau * highest)
        if not kept.any():
            raise UserError(f"no virtual token has a gate of {tau} times the largest; give a tau of at most 1.")
        return Pattern(kept, tau)

    def method(self, keep: float = 0.65, *, tau: float | None = None) -> Method:
        """PT-2*: P-Tuning v2 with as many virtual tokens in each layer as the gates leave open, to be trained anew.

        Virtual tokens of one layer are exchangeable, so a pattern of tokens is a number of tokens. Real tokens stay
        at the positions that they had. Other parts of a sum of methods stay as they are.
        """
        lengths = self.pattern(keep, tau=tau).lengths

        def without_gates(part: Method) -> Method:
            if not isinstance(part, PrefixMethod):
                return part
            fields = {name: getattr(part, name) for name in _SHARED if hasattr(part, name)}
            offset = self.position_offset or False
            return PTuningV2(
                **{**fields, "length": max(lengths), "lengths": lengths, "layers": None, "position_offset": offset}
            )

        parts = tuple(without_gates(part) for part in parts_of(self.trained))
        return parts[0] if len(parts) == 1 else Combined(parts)

    def plot(self, path: str | Path | None = None) -> Any:
        """A heat map of g, layers upwards and tokens to the right, in parts of the largest; needs the extra `plots`.

        Args:
          path: where to write the picture; None writes none.

        Returns:
          The matplotlib figure.
        """
        return _heat_map(self, path)

    def table(self, keep: float = 0.65, *, tau: float | None = None) -> Any:
        """A `rich` table, a layer a row."""
        from rich.table import Table

        lengths = self.pattern(keep, tau=tau).lengths
        table = Table("layer", "lambda", "alpha", "least to most", "|lambda alpha|", "tokens", "kept", box=None)
        for column in table.columns:
            column.justify = "right"
        for layer in reversed(range(len(self.lengths))):
            there, alpha = self.lengths[layer], self.alpha[layer, : self.lengths[layer]]
            if not there:
                table.add_row(f"{layer + 1}", *("-",) * 4, "0", "0")
                continue
            table.add_row(
                f"{layer + 1}",
                f"{self.layer_scale[layer]:.3f}",
                f"{alpha.mean():.3f}",
                f"{alpha.min():.3f} to {alpha.max():.3f}",
                f"{self.gate[layer, :there].mean():.3f}",
                f"{there}",
                f"{lengths[layer]}",
            )
        return table


def read_gates(adapter: Adapter | str | Path, split: str = "validation", *, batch_size: int = 32) -> Gates:
    """The gates of a finished run, averaged over the rows of a split.

    Args:
      adapter: an adapter of a run of `AdaptivePrefix`, or its folder.
      split: `train`, `validation` or `test` of the run's source.
      batch_size: rows computed at a time.

    Raises:
      UserError: no adapter, no such split, or a method without gates.
    """
    adapter = adapter if isinstance(adapter, Adapter) else load_adapter(adapter)
    model, run = adapter.model, adapter.run
    edits = model.edits(adapter.trainable)
    gated = [(index, edit) for index, edit in enumerate(edits.layers) if isinstance(edit, GatedPrefix)]
    prefixes = [part for part in parts_of(model.method) if isinstance(part, PrefixMethod)]
    if len(gated) != 1 or len(prefixes) != 1:
        raise UserError(
            f"the adapter was trained by {type(model.method).__name__}, with {len(gated)} gated prefixes among "
            f"{len(prefixes)}; give one of a run of AdaptivePrefix with no second prefix beside it."
        )
    ((index, gates),), (prefix,) = gated, prefixes

    @jax.jit
    def look(trainable: Any, frozen: Any, batch: Any) -> tuple[Any, Any]:
        observed = model.forward(trainable, frozen, batch, capture=True).observed
        assert observed is not None  # under `capture`
        seen = observed[index]
        return seen["alpha"], seen["gate"]

    examples = prepare(run.task, adapter.backbone.tokenizer, split, adapter.facts)
    alpha = gate = np.asarray(0.0)
    rows = 0
    for batch, numbers in evaluation_batches(examples, min(batch_size, len(examples))):
        found = jax.device_get(look(adapter.trainable, adapter.frozen, batch))
        per_row = [np.asarray(values, np.float64)[:, : len(numbers)] for values in found]  # [L, rows, P]
        alpha, gate = alpha + per_row[0].sum(1), gate + np.abs(per_row[1]).sum(1)
        rows += len(numbers)
    scale = gates.gate_scale
    lengths = prefix.layer_lengths(model.backbone.dims)
    present = np.arange(gate.shape[1]) < np.array(lengths)[:, None]
    return Gates(
        alpha=np.where(present, alpha / rows, 0),
        layer_scale=np.ones(len(lengths)) if scale is None else np.asarray(scale, np.float64),
        gate=np.where(present, gate / rows, 0),
        lengths=lengths,
        rows=rows,
        trained=model.method,
        position_offset=prefix.offset(model.backbone.dims),
    )


def p_tuning_v2_plus(method: PTuningV2, factor: float = 1.5) -> PTuningV2:
    """PT-2+: P-Tuning v2 with `factor` times the virtual tokens, rounded; with 1.5 it has the parameters of Adaptive
    Prefix Tuning of the old length (but for one lambda a layer).

    Args:
      method: `AdaptivePrefix` or `PTuningV2`; its other settings are kept, without those of gates.
      factor: how many times the length.
    """
    fields = {name: getattr(method, name) for name in _SHARED}
    fields["length"] = round(factor * method.length)
    if method.lengths is not None:
        fields["lengths"] = tuple(round(factor * length) for length in method.lengths)
    return PTuningV2(**fields)


def _heat_map(gates: Gates, path: str | Path | None) -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("a heat map needs matplotlib; install it with `pip install 'jaxprefix[plots]'`.") from error
    layers, tokens = gates.gate.shape
    shown = np.ma.masked_where(~gates.present, gates.gate / (gates.gate.max() or 1))
    size = (min(12, 2.5 + 0.25 * tokens), min(9, max(2.6, 1.6 + 0.25 * layers)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shown, cmap="Blues", vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest")
    axes.set_yticks(range(0, layers, -(-layers // 12)), [str(i + 1) for i in range(0, layers, -(-layers // 12))])
    axes.set_xticks(range(0, tokens, -(-tokens // 16)), [str(j + 1) for j in range(0, tokens, -(-tokens // 16))])
    axes.set_xlabel("virtual token")
    axes.set_ylabel("layer")
    axes.set_facecolor("0.9")  # no token
    figure.colorbar(picture, label=r"mean $|\lambda\,\alpha|$ / largest")
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
