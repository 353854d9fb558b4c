"""A run as one typed value: the same in a config file, on the command line, in a notebook and in a checkpoint."""

import dataclasses
from typing import ClassVar, Literal

from jaxprefix.distributed.mesh import MeshShape
from jaxprefix.errors import UserError
from jaxprefix.generation.decoding import Decoding
from jaxprefix.methods import PTuningV2, load_methods
from jaxprefix.methods.base import Method
from jaxprefix.models.backbones import BackboneConfig  # whose families are values of runs
from jaxprefix.models.fresh_init import Start as BackboneStart
from jaxprefix.models.heads import Head
from jaxprefix.models.quantizing import Quantize
from jaxprefix.models.stack import Remat
from jaxprefix.old_names import answer_old_names
from jaxprefix.starts import Start, TextStart, startable
from jaxprefix.tasks import load_kinds
from jaxprefix.tasks.base import Task, check_task
from jaxprefix.training.optimizer import Optimizer
from jaxprefix.typed_json import register
from jaxprefix.values import Count, Natural, Place, Positive, Rate

Writer = Literal["tensorboard", "wandb"]


@register
@dataclasses.dataclass(frozen=True)
class NewBackbone:
    """A backbone drawn at random, to be pretrained.

    Attributes:
      config: its sizes; `vocab` must hold the tokenizer's entries.
      tokenizer: folder or hub name of the tokenizer.
      start: how its leaves are drawn: as BERT's and GPT-2's (`bert`), or as small encoders learn soonest (`small`).
    """

    config: BackboneConfig
    tokenizer: str
    start: BackboneStart = "bert"


@answer_old_names
@register
@dataclasses.dataclass(frozen=True)
class Run:
    """One tuning run.

    Attributes:
      task: the data, and what is asked of it.
      backbone: a Hugging Face encoder or decoder: a local folder, a hub name, or the embedded `tiny-encoder` or
        `tiny-decoder`.
      tokenizer: folder or hub name of the tokenizer, where it is not the backbone's; None for the one in its folder.
      method: what is trained.
      start: where its virtual tokens begin: a text, words, labels' names, an adapter (`TextStart` and its like); None
        for the method's own random numbers.
      head: from hidden states to labels; None for the task's own with its defaults.
      optimizer: learning rates, schedule, decay, clipping.
      decoding: how text is made where the task asks for any.
      epochs: passes over the training rows.
      steps: updates; None for `epochs` of them.
      batch_size: rows of one update, over all devices.
      accumulate: parts of the batch that are differentiated one after another, to save memory.
      eval_batch_size: rows of an evaluation batch; None for `batch_size`.
      buckets: padded lengths in tokens, two to four of them; None chooses them from the lengths of the rows.
      evaluate_every: updates between evaluations on the validation rows; None for one per epoch.
      checkpoint_every: updates between checkpoints beside those at evaluations; None for no others.
      patience: evaluations without a better metric after which the run stops; None never stops early.
      label_smoothing: share of the target that is spread over all classes.
      hidden_dropout: rate in the backbone, its embeddings and sublayers; None keeps the backbone's own.
      attention_dropout: rate of the attention weights; None keeps the backbone's own.
      precision: dtype of the frozen leaves and of the computation; trainable leaves and softmax are float32 always.
      quantize: `int8` keeps the kernels of the frozen layers as int8 with one scale per output, a quarter of float32;
        what is trained and computed stays in float. None keeps them in `precision`.
      unroll: layers as a Python loop (fast on CPU) or as a scan (small program); None decides by backend and depth.
      remat: what the backward pass keeps of a layer: all (`none`), results of linear maps (`dots`), inputs (`full`);
        None is `none` on a CPU, elsewhere what the backbone's family usually takes.
      baseline: a method that is trained by the same settings afterwards, in `<folder>/baseline`, to be reported beside
        this one; None for no comparison.
      mesh: devices along data, fsdp and tp.
      seed: of the initialisation, the order of the data and the dropout.
      log_every: updates between lines of `metrics.jsonl`.
      profile: updates that are traced for XProf or Perfetto, into `<folder>/profile`, from the tenth on after a start.
      writers: where metrics go beside `metrics.jsonl`; each is an extra of the package.
      folder: where checkpoints, metrics and the adapter go; a run that is started again there goes on.
    """

    task: Task
    backbone: str | NewBackbone = "tiny-encoder"
    tokenizer: str | None = dataclasses.field(default=None, kw_only=True)
    method: Method = dataclasses.field(default_factory=PTuningV2)
    start: Start | None = None
    head: Head | None = None
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    epochs: Positive = 10.0
    steps: Count | None = None
    batch_size: Count = 32
    accumulate: Count = 1
    eval_batch_size: Count | None = None
    buckets: tuple[Count, ...] | None = None
    evaluate_every: Count | None = None
    checkpoint_every: Count | None = None
    patience: Count | None = None
    label_smoothing: Rate = 0.0
    hidden_dropout: Rate | None = None
    attention_dropout: Rate | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    quantize: Quantize | None = None
    unroll: bool | None = None
    remat: Remat | None = None
    baseline: Method | None = None
    mesh: MeshShape = dataclasses.field(default_factory=MeshShape)
    seed: Natural = 0
    log_every: Count = 10
    profile: Natural = 0
    writers: tuple[Writer, ...] = ()
    folder: Place = "runs/run"

    # May change when a run goes on: none of them changes what is computed.
    FREE: ClassVar[tuple[str, ...]] = (
        "folder",
        "baseline",
        "writers",
        "log_every",
        "profile",
        "checkpoint_every",
        "mesh",
        "unroll",
        "remat",
        "eval_batch_size",
        "decoding",
    )

    def check(self) -> None:
        """Refuses what no data is needed to refuse."""
        self.optimizer.check()
        if self.steps is not None:
            self.optimizer.check_steps(self.steps)
        if self.quantize is not None and isinstance(self.backbone, NewBackbone):
            raise UserError("quantize is for pretrained weights, and this backbone is new; set quantize=None.")
        if self.tokenizer is not None and isinstance(self.backbone, NewBackbone):
            raise UserError("a new backbone names its own tokenizer; set tokenizer=None.")
        if self.start is not None:
            startable(self.method)
        check_task(self.task, self.head, self.label_smoothing)

    def with_method(self, method: Method) -> "Run":
        """The run with another method and no baseline. The start goes along where that method has virtual tokens, a
        text being cut or repeated where it has another number of them."""
        start = self.start
        try:
            startable(method)
        except UserError:
            start = None
        if isinstance(start, TextStart):
            start = dataclasses.replace(start, fit=True)
        return dataclasses.replace(self, method=method, start=start, baseline=None)

    def resolve_head(self, count: int | None) -> Head:
        """The head with its number of labels filled in from the data (`Task.count`)."""
        return (self.task.default_head() if self.head is None else self.head).with_count(count)


load_kinds()  # which register themselves
load_methods()
