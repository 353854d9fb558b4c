"""The members of a population: runs that differ in nothing that the compiled program is made of."""

import dataclasses
import difflib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprefix.edits import Dims, Edits, Rates
from jaxprefix.errors import UserError
from jaxprefix.methods import FullFineTuning, parts_of
from jaxprefix.methods.base import Method
from jaxprefix.models.backbone_config import Module
from jaxprefix.models.backbones import make_backbone
from jaxprefix.models.heads import Head
from jaxprefix.models.tuned import TunedModel
from jaxprefix.training.config import NewBackbone, Run
from jaxprefix.training.setup import Backbone, init_trees
from jaxprefix.trees import Tree, flatten
from jaxprefix.typed_json import differences

Fields = Mapping[str, Any]

FREE_FIELDS = (
    "seed",
    "optimizer.learning_rate",
    "optimizer.head_learning_rate",
    "optimizer.gate_learning_rate",
    "optimizer.weight_decay",
    "hidden_dropout",
    "attention_dropout",
)
"""Fields that members may differ in whatever the method is; those of the method are tried out (`check_methods`)."""


def grid(values: Mapping[str, Iterable[Any]]) -> tuple[dict[str, Any], ...]:
    """Every combination of values as members: `grid({"seed": range(3), "optimizer.learning_rate": (1e-3, 3e-3)})` has
    six, the last field changing fastest.

    Raises:
      UserError: the values of a field are not several.
    """
    for name, found in values.items():
        if isinstance(found, str | bytes) or not isinstance(found, Iterable):
            raise UserError(f"grid is given {name} = {found!r} and takes the values to try; write {{{name!r}: [...]}}.")
    return tuple(dict(zip(values, found, strict=True)) for found in itertools.product(*values.values()))


def with_fields(run: Run, fields: Fields) -> Run:
    """The run with fields replaced, by their dotted names; parts of tuples go by number (`method.parts.1.dropout`).

    Raises:
      UserError: there is no such field.
    """
    for path, value in fields.items():
        run = _replaced(run, path.split("."), value, path)
    return run


def _replaced(owner: Any, names: list[str], value: Any, path: str) -> Any:
    if not names:
        return value
    name, rest = names[0], names[1:]
    known: list[str] = []
    if isinstance(owner, tuple):
        if name.isdecimal() and int(name) < len(owner):
            index = int(name)
            return (*owner[:index], _replaced(owner[index], rest, value, path), *owner[index + 1 :])
    elif dataclasses.is_dataclass(owner) and not isinstance(owner, type):
        known = [field.name for field in dataclasses.fields(owner)]
        if name in known:
            return dataclasses.replace(owner, **{name: _replaced(getattr(owner, name), rest, value, path)})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"the nearest field is {near[0]!r}" if near else f"{type(owner).__name__} has {', '.join(known) or 'none'}"
    raise UserError(f"a member of the population sets {path!r}, but there is no such field; {hint}.")


def member_runs(run: Run, members: Sequence[Fields]) -> tuple[Run, ...]:
    """The runs of the members, checked as far as no backbone is needed.

    Raises:
      UserError: no member, an unknown field, one that members cannot differ in, or a run that no population can hold.
    """
    if not members:
        raise UserError("the population has no members; give at least one, as in ({'seed': 0}, {'seed': 1}).")
    runs = tuple(with_fields(run, fields) for fields in members)
    for member in runs:
        member.check()
    if run.baseline is not None:
        raise UserError("a population trains no baseline; set baseline to None, and train it as a run of its own.")
    if isinstance(run.backbone, NewBackbone):
        raise UserError("a population shares one pretrained backbone; write a new encoder to a folder and name that.")
    for index, member in enumerate(runs):
        for difference in differences(dataclasses.replace(runs[0], method=member.method), member):
            field = difference.partition(":")[0]
            if field not in FREE_FIELDS:
                raise UserError(
                    f"member {index} differs from the first one in {field} ({difference.partition(': ')[2]}), which "
                    "the compiled step is made for; give it to all members, or train it as a run of its own."
                )
    return runs


def member_models(encoder: Module, head: Head, runs: Sequence[Run]) -> tuple[TunedModel, ...]:
    """The model of each member: its method on the encoder with its dropout rates.

    Args:
      encoder: with the dropout rates of the backbone's folder.
      head: with its number of labels.
      runs: of the members.
    """
    configs = [encoder.config.with_dropout(run.hidden_dropout, run.attention_dropout) for run in runs]
    return tuple(
        TunedModel(make_backbone(config, encoder.dtype, encoder.unroll, encoder.remat), run.method, head)
        for config, run in zip(configs, runs, strict=True)
    )


def check_methods(models: Sequence[TunedModel]) -> None:
    """Refuses methods that move the backbone's matrices, and members whose methods are another program.

    A method's field may differ where its leaves have the same shapes and are made into the same edits by the same
    program: initial scales do, and dropout rates, which edits hold in a field `rate` and read through their context.

    Raises:
      UserError: naming the field.
    """
    for index, model in enumerate(models):
        if any(isinstance(part, FullFineTuning) for part in parts_of(model.method)):
            raise UserError(
                "FullFineTuning moves the whole backbone, of which a population has one copy for all members; train "
                "such runs one after another."
            )
        if model.method == models[0].method:
            continue
        named = "; ".join(differences({"method": models[0].method}, {"method": model.method}))
        ours, firsts = (_program(found.method, found.backbone.dims) for found in (model, models[0]))
        for what, mine, other in zip(("shapes of what is trained", "program"), ours, firsts, strict=True):
            if mine != other:
                raise UserError(
                    f"member {index} differs from the first one in {named}, which changes the {what}; give it to all "
                    "members, or train it as a run of its own."
                )


def _program(method: Method, dims: Dims) -> tuple[Any, Any]:
    """What identifies a method's leaves, and what identifies the edits that are made of them."""
    module = method.build(dims)
    leaves = jax.eval_shape(module.init, jax.random.key(0)).get("params", {})
    made, edits = jax.make_jaxpr(lambda params: module.apply({"params": params}), return_shape=True)(leaves)
    constants = tuple((np.shape(x), np.asarray(x).tobytes()) for x in made.consts)
    rateless = tuple(dataclasses.replace(edit, rate=0.0) if _has_rate(edit) else edit for edit in edits.layers)
    structure = jax.tree.structure(dataclasses.replace(edits, layers=rateless))
    shapes = {path: (leaf.shape, leaf.dtype) for path, leaf in flatten(leaves).items()}
    return shapes, (str(made.jaxpr), constants, structure)


def _has_rate(edit: Any) -> bool:
    return any(field.name == "rate" for field in dataclasses.fields(edit))


def stacked_dropout(models: Sequence[TunedModel]) -> Rates:
    """The dropout rates in which members differ, float32 `[K]`; None for those that are built into the program.

    Raises:
      UserError: a member's method has several rates, and members differ in them.
    """
    configs = [model.backbone.config for model in models]
    methods, inducers = zip(*(_edit_rates(model) for model in models), strict=True)
    return Rates(
        hidden=_stacked([config.hidden_dropout for config in configs]),
        attention=_stacked_attention([config.attention_dropout for config in configs], inducers),
        method=_stacked([_one_rate(index, rates, methods) for index, rates in enumerate(methods)]),
    )


def _edit_rates(model: TunedModel) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The rates of a method's edits: those that `Rates.method` replaces, and those that follow the attention's."""
    module = model.method.build(model.backbone.dims)
    edits: Edits = jax.eval_shape(lambda key: module.apply(module.init(key)), jax.random.key(0))
    rated: list[Any] = [edit for edit in edits.layers if _has_rate(edit)]
    of_attention = [edit.rate for edit in rated if edit.follows_attention]
    of_method = [edit.rate for edit in rated if not edit.follows_attention]
    return tuple(of_method), tuple(of_attention)


def _one_rate(index: int, rates: tuple[float, ...], all_rates: Sequence[tuple[float, ...]]) -> float | None:
    """A member's rate for all parts of its method; None where that is built in."""
    if all(found == all_rates[0] for found in all_rates):
        return None
    if len(set(rates)) > 1:
        raise UserError(
            f"the parts of member {index}'s method have the dropout rates {', '.join(map(str, rates))}, and members "
            "that differ in them need one rate each; give the parts of a method the same `dropout`."
        )
    return rates[0]


def _stacked_attention(attention: list[float], inducers: Sequence[tuple[float, ...]]) -> Any:
    if len(set(attention)) == 1 and len(set(inducers)) == 1:
        return None
    for index, (rate, own) in enumerate(zip(attention, inducers, strict=True)):
        if any(found != rate for found in own):
            raise UserError(
                f"the inducer of member {index} has a dropout of {own[0]} and the attention one of {rate}, and members "
                "that differ in them need one rate each; leave the inducer's `dropout` at None."
            )
    return jnp.asarray(attention, jnp.float32)


def _stacked(rates: list[float | None]) -> Any:
    return None if len(set(rates)) == 1 else jnp.asarray(rates, jnp.float32)


def init_leaves(
    models: Sequence[TunedModel], runs: Sequence[Run], backbone: Backbone, labels: Sequence[str]
) -> tuple[Tree, Tree, Tree]:
    """Every member's leaves as its own run would draw them, stacked `[K, ...]`.

    Returns:
      The trainable trees stacked; the frozen backbone, one for all; the frozen leaves that were drawn, stacked.
    """
    made = [init_trees(run, model, backbone, labels) for model, run in zip(models, runs, strict=True)]
    stack = lambda *leaves: jnp.stack(leaves)  # noqa: E731
    trainable = jax.tree.map(stack, *(trainable for trainable, _ in made))
    drawn = jax.tree.map(stack, *(frozen["initialized"] for _, frozen in made))
    return trainable, made[0][1]["backbone"], drawn


def member_of(tree: Any, index: int) -> Any:
    """One member's part of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
