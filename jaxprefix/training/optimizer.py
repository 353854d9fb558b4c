"""AdamW with schedules, clipping, weight decay and learning rates by group, over the trainable tree alone.

Everything that does not change shapes (rates, decay) is an argument of the update, so that the same compiled step
serves any of their values.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

from jaxprefix.edits import Leaf
from jaxprefix.errors import UserError
from jaxprefix.trees import Tree, flatten, unflatten
from jaxprefix.typed_json import register
from jaxprefix.values import Natural, NonNegative, Positive, Rate, Share

Schedule = Literal["linear", "linear_late", "exponential", "cosine", "constant"]


@register
@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW (Loshchilov & Hutter 2019).

    Attributes:
      learning_rate: the highest rate, of everything that has none of its own below.
      head_learning_rate: of the head; None for `learning_rate`.
      gate_learning_rate: of gates (leaves that declare the group `gate`); None for `learning_rate`.
      schedule: after the warm-up, `linear` and `cosine` fall to `end` at the last step; `linear_late` falls by one of
        all steps' parts a step, as if there had been no warm-up, and so does not reach 0 (the inducer paper's code for
        GPT-2); `exponential` multiplies by `decay` once per epoch (P-Tuning v2 on named entities); `constant` stays.
      decay: the factor per epoch of `exponential`.
      warmup: steps over which the rate rises linearly from 0.
      warmup_share: the same as a share of all steps; only one of the two.
      end: what `linear` and `cosine` fall to, as a part of the learning rate.
      weight_decay: decoupled; applies to leaves that declare it: matrices and prefixes, never biases, norms, masses.
      clip: largest global norm of the gradient of all trainable leaves; None for no clipping.
      beta1: decay of the mean of gradients.
      beta2: decay of the mean of squared gradients.
      epsilon: added to the root of the latter.
    """

    learning_rate: NonNegative = 5e-3
    head_learning_rate: NonNegative | None = None
    gate_learning_rate: NonNegative | None = None
    schedule: Schedule = "linear"
    decay: Positive = 0.95
    warmup: Natural = 0
    warmup_share: Rate = 0.0
    end: Share = 0.0
    weight_decay: NonNegative = 0.0
    clip: Positive | None = 1.0
    beta1: Rate = 0.9
    beta2: Rate = 0.999
    epsilon: Positive = 1e-8

    def check(self) -> None:
        """Refuses fields that contradict each other."""
        if self.warmup and self.warmup_share:
            raise UserError("optimizer has both warmup and warmup_share; give one of them.")

    def check_steps(self, steps: int) -> None:
        """Refuses, as UserError, a warm-up that a run of so many steps would end in."""
        warmup = self._warmup(steps)
        if warmup >= steps:
            raise UserError(
                f"the optimizer's warm-up takes {warmup} steps and the run {steps}, so it would never have its rate; "
                f"set {'warmup' if self.warmup else 'warmup_share'} lower, or train longer."
            )

    def _warmup(self, steps: int) -> int:
        return self.warmup or math.ceil(self.warmup_share * steps)

    def rates(self) -> dict[str, Float[Array, ""]]:
        """The array leaves of a run: learning rates by group, and the weight decay."""

        def or_base(rate: float | None) -> float:
            return self.learning_rate if rate is None else rate

        values = {
            "base": self.learning_rate,
            "head": or_base(self.head_learning_rate),
            "gate": or_base(self.gate_learning_rate),
            "weight_decay": self.weight_decay,
        }
        return {name: jnp.float32(value) for name, value in values.items()}

    def init(self, trainable: Tree) -> Any:
        """The optimizer state of a trainable tree."""
        return self._transformation().init(trainable)

    def update(
        self,
        grads: Tree,
        opt_state: Any,
        trainable: Tree,
        rates: dict[str, Float[Array, ""]],
        factor: Float[Array, ""],
        table: Mapping[str, Leaf],
    ) -> tuple[Tree, Any]:
        """One step: the new trainable tree and optimizer state.

        Args:
          grads: of `trainable`.
          opt_state: of the step before, at first `init`'s.
          trainable: the leaves, float32.
          rates: as `rates()` gives them.
          factor: the schedule's.
          table: what the leaves declare, by path (`leaf_table`).
        """
        updates, opt_state = self._transformation().update(grads, opt_state)
        new = {}
        updates = flatten(cast(Tree, updates))  # a tree like `grads`
        for path, leaf in flatten(trainable).items():
            decay = rates["weight_decay"] if table[path].decay else 0.0
            new[path] = leaf - factor * rates[table[path].group] * (updates[path] + decay * leaf)
        return unflatten(new), opt_state

    def _transformation(self) -> optax.GradientTransformation:
        adam = optax.scale_by_adam(self.beta1, self.beta2, self.epsilon)
        return adam if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), adam)

    def factor(self, step: Int[Array, ""], steps: int, epoch_steps: int) -> Float[Array, ""]:
        """The schedule's factor at `step` (0-based) of `steps`."""
        step = jnp.asarray(step, jnp.float32)
        warmup = self._warmup(steps)
        done = jnp.clip((step - warmup) / max(steps - warmup, 1), 0, 1)
        after = {
            "linear": self.end + (1 - self.end) * (1 - done),
            "linear_late": 1 - (step - warmup) / max(steps, 1),
            "cosine": self.end + (1 - self.end) * 0.5 * (1 + jnp.cos(jnp.pi * done)),
            "exponential": jnp.float32(self.decay) ** jnp.floor(step / epoch_steps),
            "constant": jnp.ones_like(step),
        }[self.schedule]
        return jnp.where(step < warmup, step / max(warmup, 1), after)


def global_norm(tree: Tree) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)))
