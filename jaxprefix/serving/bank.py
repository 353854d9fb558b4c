"""Many adapters of one backbone at once: every row of a batch names its own, and one compiled program answers all.

The adapters' leaves lie in stacks `[A, ...]`; the program takes each row's out of them and maps over rows. Frozen
weights have no axis of rows, so each linear map stays one product of all rows. An adapter is exchanged by writing into
the stacks: the program does not change as long as shapes do not.
"""

import functools
import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprefix.adapters.adapter import Adapter, load_adapter
from jaxprefix.data import evaluation_batches
from jaxprefix.data.examples import joined
from jaxprefix.edits import Edits
from jaxprefix.errors import UserError, listed
from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.loop import Generated
from jaxprefix.generation.texts import decoded_texts, with_tokens_of
from jaxprefix.models.backbone_config import Module
from jaxprefix.models.batch_keys import TOKEN_KEYS, check_batch, check_values, read_attention_mask, refuse_packed
from jaxprefix.models.encoder import check_positions
from jaxprefix.models.heads import CausalLM
from jaxprefix.old_names import answer_old_names
from jaxprefix.serving.answers import Part, answers, in_order, members_of
from jaxprefix.serving.heads import HeadSlots, read_head
from jaxprefix.serving.slots import canonical_edits
from jaxprefix.serving.state import BankState, Member, indices_of, make_state, replaced
from jaxprefix.serving.writing import bank_generate
from jaxprefix.tasks import encode_texts
from jaxprefix.tasks.asked import asked_names, asked_rows, check_rows_at_a_time, check_tokens
from jaxprefix.training.config import Run
from jaxprefix.training.setup import Backbone
from jaxprefix.trees import Tree

log = logging.getLogger("jaxprefix")

SHORTEST = 16  # tokens of the smallest padded length


@answer_old_names
class Bank:
    """Adapters of one backbone that answer together; `load_adapters` makes one from folders.

    Every row pays for the widest adapter of each kind: prefixes are padded to the longest, LoRAs to the largest rank,
    and a row whose adapter has no LoRA computes one of zeros.

    Threads may call it, and `replace`, at the same time. A call reads the adapters once, when it begins, so that all
    its rows are answered by those that were there then.
    """

    def __init__(self, adapters: Mapping[str, Adapter]):
        """
        Args:
          adapters: by name; the first one's backbone serves all.

        Raises:
          UserError: they are of different backbones, precisions or tasks, or one cannot share a program.
        """
        if not adapters:
            raise UserError("a bank has no adapters; give it at least one.")
        self._first, first = next(iter(adapters.items()))
        self._precision = _precision(first.run)
        self.backbone: Backbone = first.backbone
        self._replacing = threading.Lock()
        # immutable and exchanged as a whole: who reads it once has adapters, shapes and stacks that belong together
        self._state = make_state({name: self._member(name, adapter) for name, adapter in adapters.items()})

    def __repr__(self) -> str:
        return f"Bank({listed(self.names)} on {self.backbone.identity['source']})"

    @property
    def names(self) -> tuple[str, ...]:
        """The adapters' names."""
        return tuple(self._state.members)

    def replace(self, name: str, adapter: str | Path | Adapter) -> None:
        """Puts another adapter in the place of the one that has this name.

        Nothing is compiled anew as long as it fits the shapes of those that were there; a longer prefix, a larger rank,
        more labels or another kind of edit makes them grow, which the log tells.

        Raises:
          UserError: no adapter has that name, or the new one cannot share a program with the others.
        """
        indices_of(self._state, [name], 1)  # before anything is read
        if not isinstance(adapter, Adapter):
            adapter = load_adapter(adapter, backbone=self.backbone)
        member = self._member(name, adapter)
        with self._replacing:  # of two replacements at once neither may be lost; who asks the bank does not wait
            state = self._state
            members = {**state.members, name: member}
            leaves = state.fill(member)
            if leaves is None:
                self._state = make_state(members)
                log.info(
                    "the new adapter %r does not fit the bank, which grows; its next batches are compiled anew.", name
                )
            else:
                stacks = replaced(state.stacks, leaves, int(indices_of(state, [name], 1)[0]))
                self._state = state._replace(members=members, stacks=stacks)

    def logits(self, batch: Mapping[str, Any], adapters: Sequence[str]) -> Array:
        """Logits of a batch whose rows have different adapters; compiled once per shape of the batch.

        Args:
          batch: `input_ids` int `[B, T]`; `attention_mask` bool `[B, T]`, `token_type_ids` int `[B, T]` and, of a
            decoder, `segment_ids` int `[B, T]` may be absent.
          adapters: the name of each row's adapter, B of them.

        Returns:
          Float32 `[B, C]`, or `[B, T, C]` of token classifiers, C being the largest number of labels; `-inf` for the
          labels that a row's adapter does not have.
        """
        check_batch(batch, None)
        check_values(batch, self.backbone.module.config.vocab, self.backbone.module.config.type_count)
        state, ids, mask = self._state, batch["input_ids"], read_attention_mask(batch)
        which = indices_of(state, asked_names("logits", adapters), len(ids))
        columns = {**batch, "attention_mask": mask}
        last = np.asarray(mask) * np.arange(1, ids.shape[1] + 1)
        self._check_lengths(state, last.max(1), which)
        return self._answer(state, columns, which)["logits"]

    def __call__(
        self, rows: Iterable[str | Mapping[str, Any]], adapters: Iterable[str], *, batch_size: int = 32
    ) -> list[dict[str, Any]]:
        """Labels and scores for texts, each by its own adapter.

        Batches are padded to a power of two of rows and to one of a few lengths, so that few programs serve all calls.

        Args:
          rows: texts, or mappings with the columns that the adapter's task reads.
          adapters: the name of each row's adapter.
          batch_size: rows computed at a time.

        Returns:
          For each row what `Adapter.predict` returns, with the labels of its adapter.
        """
        state = self._state
        rows, adapters = asked_rows("bank", rows), asked_names("bank", adapters)
        check_rows_at_a_time("bank", batch_size)
        which = indices_of(state, adapters, len(rows))
        for name in dict.fromkeys(adapters):
            state.members[name].adapter.run.task.check_answers()
        if not rows:
            return []
        parts = self._encoded(state, rows, which)
        examples, members = joined([part.examples for part in parts]), members_of(parts)
        for part in parts:
            check_tokens(part.examples, part.rows)
        self._check_lengths(state, examples.lengths, members)
        size = min(batch_size, 1 << (len(examples) - 1).bit_length())
        collected: list[list[dict[str, Array]]] = []
        indices = []
        for batch, index in evaluation_batches(examples, size, self._buckets()):
            filled = np.concatenate([index, np.repeat(index[-1:], size - len(index))])
            collected.append(self._answer(state, batch, members[filled])["outputs"])
            indices.append(index)
        outputs = in_order(state.head_slots.heads, jax.device_get(collected), indices)
        results: list[dict[str, Any]] = [{}] * len(rows)
        for part, begin in zip(parts, np.cumsum([0, *(len(part.examples) for part in parts)]), strict=False):
            member = list(state.members.values())[part.member]
            found = outputs[state.head_slots.heads.index(member.head.head)]
            own = {name: value[begin : begin + len(part.examples)] for name, value in found.items()}
            answered = answers(member.adapter, member.head, own, part, [rows[row] for row in part.rows])
            for row, answer in zip(part.rows, answered, strict=True):
                results[row] = answer
        return results

    def generate(
        self,
        rows: Iterable[str | Mapping[str, Any]],
        adapters: Iterable[str],
        decoding: Decoding | None = None,
        *,
        batch_size: int = 32,
        seed: int = 0,
    ) -> list[str]:
        """The text for each prompt, each by its own adapter, without a beam.

        Args:
          rows: prompts, or mappings with the columns that the adapter's task makes prompts of.
          adapters: the name of each row's adapter.
          decoding: how; None for that of the first adapter's run.
          batch_size: prompts decoded at a time.
          seed: of what is drawn.
        """
        state = self._state
        rows, adapters = asked_rows("generate", rows), asked_names("generate", adapters)
        check_rows_at_a_time("generate", batch_size)
        which = indices_of(state, adapters, len(rows))
        if not all(head.writes for head in state.head_slots.heads):
            raise UserError("these adapters write no text; call bank(rows, adapters) for their labels.")
        if not rows:
            return []
        run, dims = next(iter(state.members.values())).adapter.run, self.backbone.module.dims
        decoding = with_tokens_of(run.decoding if decoding is None else decoding, self.backbone.tokenizer)
        decoding.check(dims.vocab)
        if decoding.beams > 1:
            raise UserError("a bank decodes without a beam; set beams=1, or take one adapter with jp.load_adapter.")
        parts = self._encoded(state, rows, which)
        examples, members = joined([part.examples for part in parts]), members_of(parts)
        self._check_lengths(state, examples.lengths + decoding.max_new_tokens - 1, members)

        def decode(batch: dict, index: np.ndarray) -> Generated:
            filled = np.concatenate([index, np.repeat(index[-1:], len(batch["input_ids"]) - len(index))])
            key = jax.random.fold_in(jax.random.key(seed), int(index[0])) if decoding.draws else None
            module, own = self.backbone.module, members[filled]
            return bank_generate(module, decoding, state.stacks, self._frozen(), batch, own, key)

        texts = decoded_texts(examples, self.backbone.tokenizer, decode, batch_size, dims.positions)
        order = np.concatenate([part.rows for part in parts])
        return [texts[place] for place in np.argsort(order, kind="stable")]

    def _encoded(self, state: BankState, rows: Sequence[Any], which: np.ndarray) -> list[Part]:
        """The rows' tokens by adapter, each by its adapter's task."""
        parts = []
        for index, (name, member) in enumerate(state.members.items()):
            own = np.flatnonzero(which == index)
            if len(own):
                adapter = member.adapter
                try:
                    made = encode_texts(
                        adapter.run.task, self.backbone.tokenizer, [rows[int(row)] for row in own], adapter.facts
                    )
                except UserError as error:
                    raise UserError(f"of the rows for the adapter {name!r}: {error}") from error
                parts.append(Part(index, own, made))
        return parts

    def _buckets(self) -> list[int]:
        """Padded lengths, each twice the one before, the last being all that the position table can serve."""
        longest = self.backbone.module.dims.positions
        return [*(SHORTEST << i for i in range(longest.bit_length()) if SHORTEST << i < longest), longest]

    def _check_lengths(self, state: BankState, lengths: np.ndarray, which: np.ndarray) -> None:
        """Refuses rows that the position table cannot serve, each with the offset of its own adapter."""
        offsets = np.array([member.offset for member in state.members.values()])[which]
        worst = int(np.argmax(lengths + offsets))
        check_positions(int(lengths[worst]), int(offsets[worst]), self.backbone.module.dims)

    def _answer(self, state: BankState, batch: Mapping[str, Any], which: np.ndarray) -> dict[str, Any]:
        refuse_packed(batch, self.backbone.module.dims.causal)
        columns = {name: batch[name] for name in TOKEN_KEYS if name in batch}
        return bank_forward(self.backbone.module, state.head_slots, state.stacks, self._frozen(), columns, which)

    def _frozen(self) -> Tree:
        tree = self.backbone.tree
        return {name: tree[name] for name in (*self.backbone.module.parts, "pooler", "lm_head") if name in tree}

    def _member(self, name: str, adapter: Adapter) -> Member:
        """The adapter's part of the stacks; refuses one that is not of this bank's backbone and precision."""
        if not adapter.backbone.identity["identity"]:
            raise UserError(
                f"the adapter {name!r} was trained on a new encoder, which has no identity that others could share; "
                "serve it on its own with jp.load_adapter."
            )
        if adapter.backbone.identity["identity"] != self.backbone.identity["identity"]:
            raise UserError(
                f"the adapters {name!r} and {self._first!r} were trained on different backbones; make a bank for each."
            )
        if _precision(adapter.run) != self._precision:
            raise UserError(
                f"the adapter {name!r} computes in {_precision(adapter.run)} and {self._first!r} in {self._precision}; "
                "make a bank for each."
            )
        head = read_head(name, adapter.model.head, adapter.trainable, adapter.frozen["initialized"])
        edits = adapter.model.edits(adapter.trainable)
        canonical = canonical_edits(name, edits, self.backbone.module.dims)
        return Member(adapter, canonical, edits.position_offset, head)


def _precision(run: Run) -> str:
    return run.precision if run.quantize is None else f"{run.precision} with {run.quantize} kernels"


def load_adapters(
    folders: Mapping[str, str | Path | Adapter] | Sequence[str | Path], *, backbone: str | Backbone | None = None
) -> Bank:
    """Opens adapter folders of one backbone as one callable in which each row of a batch names its adapter.

    Args:
      folders: adapter folders by name, or adapters that are open; or a list of folders, whose names are those of the
        folders (of the run's folder for the folder `adapter` that a run writes).
      backbone: see `load_adapter`; it is read once, for all.

    Returns:
      `bank(rows, adapters)` with one of `bank.names` for each row.

    Raises:
      UserError: what `load_adapter` and `Bank` refuse, or two folders of one name.
    """
    if isinstance(folders, str | Path | Adapter):
        raise UserError("load_adapters is given one adapter and takes several; write load_adapters({name: adapter}).")
    named: dict[str, str | Path | Adapter] = dict(folders) if isinstance(folders, Mapping) else {}
    for folder in () if isinstance(folders, Mapping) else folders:
        if not isinstance(folder, str | Path):
            raise UserError(f"{type(folder).__name__} in a list has no name; write load_adapters({{name: adapter}}).")
        path = Path(folder).absolute()
        name = path.parent.name if path.name == "adapter" else path.name
        if name in named:
            raise UserError(
                f"{named[name]} and {folder} would both be named {name!r}; give a dict of names and folders."
            )
        named[name] = folder
    adapters: dict[str, Adapter] = {}
    for name, folder in named.items():
        adapters[name] = folder if isinstance(folder, Adapter) else load_adapter(folder, backbone=backbone)
        backbone = adapters[name].backbone
    return Bank(adapters)


@functools.partial(jax.jit, static_argnums=(0, 1))
def bank_forward(
    encoder: Module, head_slots: HeadSlots, stacks: Tree, frozen: Tree, batch: Tree, which: Any
) -> dict[str, Any]:
    """`logits` `[B, C]` or `[B, T, C]`, and what each head makes of them, `outputs`; row i with the leaves at
    `which[i]` of the stacks."""
    params = {name: frozen[name] for name in encoder.parts}

    def answer(leaves: Tree, columns: Tree) -> Array:
        one = {name: column[None] for name, column in columns.items()}
        edits = Edits(leaves["edits"], row_offsets=leaves["offset"][None])
        hidden = encoder.apply({"params": params}, one, edits).hidden
        if head_slots.unit == "vocabulary":
            return CausalLM()({}, frozen, hidden, one["attention_mask"], encoder.dims)[0]
        return head_slots.logits(leaves["head"], frozen, hidden, one["attention_mask"])[0]

    rows = jax.tree.map(lambda stack: jnp.take(stack, which, axis=0, mode="clip"), stacks)
    logits = jax.vmap(answer)(rows, batch)
    return {"logits": logits, "outputs": head_slots.outputs(logits, batch)}
