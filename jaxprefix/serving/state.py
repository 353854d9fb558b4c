"""The state of a bank: its members' leaves in stacks `[A, ...]`, in shapes that hold them all."""

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprefix.adapters.adapter import Adapter
from jaxprefix.edits import LayerEdit
from jaxprefix.errors import UserError
from jaxprefix.serving.heads import HeadSlots, Served, make_head_slots
from jaxprefix.serving.slots import Slot, fill_slots, make_slots
from jaxprefix.trees import Tree


class Member(NamedTuple):
    """An adapter and what of it is in the stacks: canonical edits, position offset, head."""

    adapter: Adapter
    edits: tuple[LayerEdit, ...]
    offset: int
    head: Served


class BankState(NamedTuple):
    """The members in their order, the shapes that hold them, and their leaves `[A, ...]`."""

    members: dict[str, Member]
    slots: tuple[Slot, ...]
    head_slots: HeadSlots
    stacks: Tree

    def fill(self, member: Member) -> Tree | None:
        """The member's leaves in the state's shapes, or None where they do not fit."""
        edits = fill_slots(self.slots, member.edits)
        if edits is None or not self.head_slots.holds(member.head):
            return None
        return {"edits": edits, "offset": np.int32(member.offset), "head": self.head_slots.fill(member.head)}


@jax.jit
def replaced(stacks: Tree, leaves: Tree, index: Any) -> Tree:
    """The stacks with other leaves at the place `index`."""
    # the old stacks are not donated: another thread may be asking them
    return jax.tree.map(lambda stack, leaf: stack.at[index].set(leaf), stacks, leaves)


def make_state(members: dict[str, Member]) -> BankState:
    """The state of members, in shapes that hold them all."""
    slots = make_slots([member.edits for member in members.values()])
    state = BankState(members, slots, make_head_slots({name: member.head for name, member in members.items()}), {})
    filled = [state.fill(member) for member in members.values()]
    return state._replace(stacks=jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *filled))


def indices_of(state: BankState, adapters: Sequence[str], rows: int) -> np.ndarray:
    """The places of the adapters named by the rows, int32; refuses names that there are not."""
    if len(adapters) != rows:
        raise UserError(f"there are {rows} rows and {len(adapters)} names of adapters; name one for each row.")
    places = {name: place for place, name in enumerate(state.members)}
    for name in adapters:
        if name not in places:
            near = difflib.get_close_matches(str(name), places, n=1) or list(places)
            raise UserError(f"the bank has no adapter {name!r}; name {' or '.join(map(repr, near))}.")
    return np.array([places[name] for name in adapters], np.int32)
