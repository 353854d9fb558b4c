"""What a finished run leaves: writing its adapter folder, opening one, and asking it."""

import dataclasses
import functools
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxprefix.checkpoints.adapter import AdapterFiles, read_adapter, write_adapter
from jaxprefix.data import Examples, Files, InMemory
from jaxprefix.data.report import Report
from jaxprefix.distributed.devices import found_devices
from jaxprefix.distributed.mesh import MeshShape, make_mesh
from jaxprefix.errors import UserError
from jaxprefix.generation.decoding import Decoding
from jaxprefix.generation.texts import generate_texts, stream_text
from jaxprefix.hf.sources import find_folder, has_tokenizer
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import encode_texts, prepare
from jaxprefix.tasks.asked import asked_rows, check_rows_at_a_time, check_tokens
from jaxprefix.tasks.base import Evaluated, Facts
from jaxprefix.training.config import Run
from jaxprefix.training.evaluation import run_rows, score_texts
from jaxprefix.training.export import described_backbone
from jaxprefix.training.provenance import (
    Splits,
    refuse_other_tokenizer,
    say_other_rows,
    stored_run,
    tokenizer_digest,
)
from jaxprefix.training.setup import Backbone, read_run_backbone
from jaxprefix.training.step import make_eval_step
from jaxprefix.tree_check import check_finite, check_leaves
from jaxprefix.trees import Tree, flatten, split, unflatten
from jaxprefix.typed_json import from_json

_making = threading.Lock()  # held while compiled functions are made, not while they are traced, compiled or called


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A trained adapter on its backbone.

    Threads may call `predict`, `generate`, `stream` and `evaluate` at the same time; nothing of an adapter changes.

    Attributes:
      model, trainable, frozen: for `model.apply(trainable, frozen, batch)`.
      backbone: the module, the tokenizer and the identity of the backbone.
      run: the config that it was trained by.
      facts: what the task knows of its training rows.
      metrics: what was measured at the end of the run, by split.
      data: by split, the name and the digest of the rows that the run had; None where nothing is known of them.
      report: what there is to say of these rows; None likewise.
    """

    model: TunedModel
    trainable: Tree
    frozen: Tree
    backbone: Backbone
    run: Run
    facts: Facts
    metrics: dict[str, Any]
    data: Splits | None = None
    report: Report | None = None

    def __repr__(self) -> str:
        run, source = self.run, self.backbone.identity["source"]
        return f"Adapter({type(run.method).__name__} for {type(run.task).__name__} on {source})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels' names in the order of the logits, where the task has labels."""
        return tuple(self.facts.get("labels", ()))

    def predict(
        self, rows: Iterable[str | Mapping[str, Any]], *, batch_size: int = 32, probabilities: bool = False
    ) -> list[dict[str, Any]]:
        """Labels and scores for texts.

        Args:
          rows: texts, or mappings with the columns that the run's task reads (for pairs and tagging).
          batch_size: rows computed at a time; fewer are padded to 8, or are one. With four padded lengths that is
            twelve shapes, and one program serves all calls of a shape.
          probabilities: whether answers hold the probabilities of all labels (`scores`) where they do not anyway, as
            those of a classification do.

        Returns:
          What the task answers for each row (`Task.answers`): for a classification `{"label", "score", "scores":
          {label: probability}}`; for tagging `{"words", "labels"}`, with None for words that were cut off.

        Raises:
          UserError: one row is given in place of the list, or a row is neither a text nor a mapping, or lacks a column.
        """
        task, rows = self.run.task, asked_rows("predict", rows)
        task.check_answers()
        check_rows_at_a_time("predict", batch_size)
        if not rows:
            return []
        examples = encode_texts(task, self.backbone.tokenizer, rows, self.facts)
        check_tokens(examples)
        sizes = sorted({1, min(8, batch_size), batch_size})
        size = next(size for size in sizes if size >= min(len(examples), batch_size))
        evaluated = self._evaluated(examples, size, probabilities, self._buckets(examples))
        return task.answers(evaluated, rows, probabilities)

    def generate(
        self,
        rows: Iterable[str | Mapping[str, Any]],
        decoding: Decoding | None = None,
        *,
        batch_size: int = 32,
        seed: int = 0,
    ) -> list[str]:
        """The text that a decoder writes for each prompt.

        Args:
          rows: prompts, or mappings with the columns that the run's task makes prompts of.
          decoding: how; None for the run's own.
          batch_size: prompts decoded at a time.
          seed: of what is drawn.

        Raises:
          UserError: as `predict` does; or the adapter writes no text.
        """
        self._check_writes()
        rows = asked_rows("generate", rows)
        check_rows_at_a_time("generate", batch_size)
        if not rows:
            return []
        prompts = encode_texts(self.run.task, self.backbone.tokenizer, rows)
        decoding = self.run.decoding if decoding is None else decoding
        model, tokenizer = self.model, self.backbone.tokenizer
        options = {"batch_size": batch_size, "seed": seed, "stops": self.run.task.stops}
        return generate_texts(model, self.trainable, self.frozen, tokenizer, prompts, decoding, **options)

    def stream(self, row: str | Mapping[str, Any], decoding: Decoding | None = None, *, seed: int = 0) -> Iterator[str]:
        """The text for one prompt, piece by piece; together they are what `generate` gives."""
        self._check_writes()
        prompt = encode_texts(self.run.task, self.backbone.tokenizer, asked_rows("stream", [row]))
        decoding = self.run.decoding if decoding is None else decoding
        model, tokenizer = self.model, self.backbone.tokenizer
        options = {"seed": seed, "stops": self.run.task.stops}
        return stream_text(model, self.trainable, self.frozen, tokenizer, prompt, decoding, **options)

    def _buckets(self, examples: Examples) -> list[int]:
        """Four padded lengths whatever the rows are, each about twice the one before, the last for the longest row."""
        longest = int(max(min(self.run.task.max_length, self._positions), examples.lengths.max(initial=1)))
        return sorted({min(-(-longest // (8 * parts)) * 8, longest) for parts in (8, 4, 2, 1)})  # multiples of 8

    def _evaluated(
        self, examples: Examples, batch_size: int, scores: bool = False, buckets: Sequence[int] | None = None
    ) -> Evaluated:
        head = self.model.head
        assert head is not None  # a run's model has one (`Run.resolve_head`)
        with _making:  # `cached_property` has no lock of its own from Python 3.12 on
            mesh, step = self._mesh, self._steps[scores]
        return run_rows(step, self.trainable, self.frozen, self.run.task, head, examples, batch_size, mesh, buckets)

    @functools.cached_property
    def _positions(self) -> int:
        """Tokens of a row that the position table can serve."""
        edits = jax.eval_shape(self.model.edits, self.trainable)
        return self.model.backbone.dims.positions - edits.positions

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return make_mesh(MeshShape(data=1), found_devices()[:1])

    @functools.cached_property
    def _steps(self) -> dict[bool, Any]:
        """The compiled evaluations without and with scores, kept for the next call."""
        return {scores: make_eval_step(self.model, self._mesh, scores) for scores in (False, True)}

    def _check_writes(self) -> None:
        if self.model.head is None or not self.model.head.writes:
            raise UserError(
                f"an adapter for {type(self.run.task).__name__} writes no text; take one of a decoder, tuned for "
                "CausalLanguage or ConditionalGeneration."
            )

    def evaluate(
        self, *, split: str = "test", file: str | None = None, rows: Any = None, batch_size: int = 32
    ) -> dict[str, float]:
        """The task's metrics, its own first.

        Args:
          split: `train`, `validation` or `test` of the run's source, where that can be read again: rows that lay in
            memory (`InMemory`) are not stored.
          file: a file with the run's columns, instead of a split; a folder or a pattern of shards.
          rows: rows with the run's columns, instead of a split: whatever `InMemory` takes.
          batch_size: rows computed at a time.

        Raises:
          UserError: the rows are not there any more, cannot be read, or do not fit the task.
        """
        task = self.run.task
        check_rows_at_a_time("evaluate", batch_size)
        if file is not None and rows is not None:
            raise UserError("evaluate is given a file and rows; give one of them.")
        if file is not None:
            task, split = dataclasses.replace(task, source=Files(train=file, test=file)), "test"
        if rows is not None:
            task, split = dataclasses.replace(task, source=InMemory(test=rows)), "test"
        if file is None and rows is None:
            say_other_rows(repr(self), self.data, split, task)
        examples = prepare(task, self.backbone.tokenizer, split, self.facts)
        found = task.measure(self._evaluated(examples, batch_size))
        written = score_texts(
            task, split, self.model, self.trainable, self.frozen, self.backbone.tokenizer, self.run.decoding, batch_size
        )
        return {**found, **written}

    def save(self, folder: str | Path) -> Path:
        """Writes the adapter folder, which `load_adapter` opens; returns it.

        Raises:
          UserError: the place holds something else than an adapter folder, or cannot be written.
        """
        write_adapter(
            folder,
            leaves={"trainable": self.trainable, "initialized": self.frozen["initialized"]},
            config_json=stored_run(self.run),
            backbone=described_backbone(self.backbone),
            metrics=self.metrics,
            facts=self.facts,
            data=self.data,
            report=self.report,
        )
        return Path(folder)


def load_adapter(folder: str | Path, *, backbone: str | Backbone | None = None) -> Adapter:
    """Opens the adapter folder of a finished run, on its backbone.

    Args:
      folder: the adapter folder.
      backbone: folder or name of the backbone, where it is not available under the name that the run used; or that of
        another adapter (`adapter.backbone`), which both then share.

    Raises:
      UserError: no adapter folder, a damaged one, or another backbone than it was trained on.
    """
    files = read_adapter(folder)
    run = from_json(files.config_json, Run)
    if isinstance(backbone, Backbone):
        found, tokenizer = backbone, run.task.extend_tokenizer(backbone.tokenizer, backbone.module.dims.vocab)
        if tokenizer is not backbone.tokenizer:
            identity = {**backbone.identity, "tokenizer": tokenizer_digest(tokenizer)}
            found = dataclasses.replace(backbone, tokenizer=tokenizer, identity=identity)
    else:
        source = run.backbone if backbone is None else backbone
        if backbone is None and isinstance(source, str):
            _check_backbone(str(folder), source)
        mesh = make_mesh(MeshShape(data=1), found_devices()[:1])
        own = backbone is not None and has_tokenizer(find_folder(backbone))  # the folder that is named now has one
        tokenizer = None if own else run.tokenizer
        found = read_run_backbone(dataclasses.replace(run, backbone=source, tokenizer=tokenizer), mesh)
    name, digest = (files.backbone.get(key, "") for key in ("name", "digest"))
    if digest and digest == found.identity.get("tied_identity"):
        raise UserError(
            f"{folder} was trained while the word table of {found.identity['source']} was taken for its head, which "
            "its config.json ties to the table and whose values differ; train it again."
        )
    if found.identity["identity"] != digest:
        raise UserError(
            f"{folder} was trained on {name}, and {found.identity['source']} holds other weights; name the folder of "
            "the former as backbone."
        )
    before, now = files.backbone.get("tokenizer"), found.identity.get("tokenizer")
    remedy = "put the former one back, or name a folder that has it as backbone"
    refuse_other_tokenizer(f"the adapter {folder}", before, now, found.identity["source"], remedy)
    model = TunedModel(found.module, run.method, run.resolve_head(run.task.count(files.facts)))
    _check_leaves(str(folder), model, files, found)
    trainable, initialized = (jax.tree.map(jnp.asarray, tree) for tree in (files.trainable, files.initialized))
    moved = set(flatten(trainable.get("backbone", {})))
    _, kept = split(found.tree, lambda path: path in moved)
    return Adapter(
        model,
        trainable,
        {"backbone": kept, "initialized": initialized},
        found,
        run,
        files.facts,
        files.metrics,
        files.data,
        files.report,
    )


def _check_backbone(folder: str, source: str) -> None:
    """Refuses, as UserError, an adapter whose backbone is not where the run had it, and says how to name it."""
    try:
        find_folder(source)
    except UserError as error:
        said = str(error).split(";", 1)[0]
        raise UserError(
            f"the backbone of the adapter {folder} is not available: {said}; name the folder that it has here by "
            "--backbone, in Python by load_adapter(folder, backbone=...)."
        ) from error


def _check_leaves(folder: str, model: TunedModel, files: AdapterFiles, backbone: Backbone) -> None:
    """Refuses, as UserError, leaves that the adapter's model would not take."""
    remedy = "the folder is damaged or was edited: copy or export it again"
    trainable, frozen = jax.eval_shape(model.init, jax.random.key(0), backbone.tree)
    check_leaves(f"the adapter {folder}", files.trainable, trainable, remedy)
    needed = frozen["initialized"]
    known = flatten(needed)
    # an import may hold more of what its backbone has as well
    own = unflatten({path: leaf for path, leaf in flatten(files.initialized).items() if path in known})
    check_leaves(f"the adapter {folder}", own, needed, remedy)
    check_finite(f"the adapter {folder}", flatten(files.initialized), remedy)


def predict(adapter: str | Path, rows: Iterable[str | Mapping[str, Any]], **options: Any) -> list[dict[str, Any]]:
    """`load_adapter(adapter).predict(rows)`; to ask more than once, keep the loaded adapter."""
    return load_adapter(adapter).predict(rows, **options)
