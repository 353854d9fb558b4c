"""Arrays of a checkpoint between the devices and the disk: the only lines that talk to Orbax."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxprefix.checkpoints.digests import digests
from jaxprefix.checkpoints.orbax_logging import silence_orbax
from jaxprefix.checkpoints.records import Damaged, Record, is_key, named_leaves, unreadable

_NOT_THE_FILES = ("RESOURCE_EXHAUSTED", "MemoryError", "PERMISSION_DENIED", "Permission denied", "Too many open files")


@jax.jit
def _copy(leaves: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: jnp.copy(jax.random.key_data(leaf) if is_key(leaf) else leaf) for name, leaf in leaves.items()}


def copies(leaves: dict[str, Any]) -> dict[str, jax.Array]:
    """Copies of named leaves on their own devices, random keys as the words they consist of."""
    groups: dict[frozenset, dict[str, jax.Array]] = defaultdict(dict)  # one program cannot span two sets of devices
    for name, leaf in leaves.items():
        if not isinstance(leaf, jax.Array):
            raise TypeError(f"the leaf {name} of the state is a {type(leaf).__name__}, not a jax.Array")
        groups[frozenset(leaf.sharding.device_set)][name] = leaf
    copied = {name: leaf for group in groups.values() for name, leaf in _copy(group).items()}
    return {name: copied[name] for name in leaves}


def start_saving(folder: Any, leaves: dict[str, jax.Array]) -> Callable[[], Any]:
    """Begins to write the leaves to a new folder; the function returned waits for the end, or raises the failure."""
    with silence_orbax():
        from orbax.checkpoint import v1 as ocp

        return ocp.save_async(
            folder, {name: leaf for name, leaf in leaves.items() if leaf.size}
        ).result  # refuses size 0


def read(folder: Any, abstract_state: Any) -> dict[str, jax.Array]:
    """The leaves that are in `folder`, by name, with the shardings of `abstract_state`; random keys as words.

    Raises:
      Damaged: some array cannot be read by this process.
      UserError: what keeps it from being read is not the files themselves.
    """
    wanted = {name: _abstract(leaf) for name, leaf in named_leaves(abstract_state).items()}
    stored = {name: _key_words(leaf) if is_key(leaf) else leaf for name, leaf in wanted.items()}
    with silence_orbax():
        from orbax.checkpoint import v1 as ocp

        # Each process by itself: else one that cannot read would leave the others waiting for it.
        here = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=here, active_processes={here}, barrier_sync_key_prefix=f"process_{here}"
        )
        try:
            with ocp.Context(multiprocessing_options=alone):
                loaded = ocp.load(folder, {name: leaf for name, leaf in stored.items() if leaf.size})
        except Exception as error:
            reason = _root_cause(error)
            if any(word in reason for word in _NOT_THE_FILES):
                raise unreadable(folder, reason) from error
            raise Damaged(f"its arrays cannot be read ({reason})") from error
    for name, leaf in stored.items():
        if not leaf.size:
            loaded[name] = jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding)
        elif not isinstance(loaded.get(name), jax.Array):  # where partial loading is on, Orbax leaves an abstract value
            raise Damaged(f"its leaf {name} is missing")
    return {name: loaded[name] for name in stored}


def verified(leaves: dict[str, jax.Array], record: Record, abstract_state: Any) -> Any:
    """The state of the leaves that `read` gave; with several processes all must call this together.

    Raises:
      Damaged: in all processes alike, where some digest is not that of the record.
    """
    for name, digest in digests(leaves).items():
        if digest != record.digests.get(name):
            raise Damaged(f"its leaf {name} does not match the digest that was stored with it")
    made = [
        jax.random.wrap_key_data(leaves[name], impl=_key_impl(_abstract(leaf))) if is_key(leaf) else leaves[name]
        for name, leaf in named_leaves(abstract_state).items()
    ]
    return jax.tree.unflatten(jax.tree.structure(abstract_state), made)


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _key_words(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """Random keys of shape `[...]` are stored as `[..., words]`; the last axis is on every device."""
    words = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=leaf.sharding)


def _key_impl(leaf: jax.ShapeDtypeStruct) -> Any:
    found = []
    jax.eval_shape(
        lambda key: found.append(jax.random.key_impl(key)), leaf
    )  # it answers for tracers, not for abstract values
    return found[0]


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
