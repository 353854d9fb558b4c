"""jaxprefix: adapt frozen Transformers with virtual tokens in JAX.

Legend of dimensions, used in every signature:
`B` batch, `T` query tokens, `S` key tokens, `P` virtual tokens, `L` layers, `H` heads, `K` key/value heads,
`D` model width, `E` head width, `V` vocabulary, `C` labels, `N` virtual tokens of all layers together, `I` and `O`
inputs and outputs of a linear map, `A` adapters of a bank.
"""

import difflib
import importlib
from typing import Any

from jaxprefix.methods import PUBLIC
from jaxprefix.renamed import NAMES
from jaxprefix.tasks import PUBLIC as TASKS

__version__ = "0.2.0"

# Public names and the modules they live in, imported at first use so that `import jaxprefix` stays quick.
_HOMES = {
    "jaxprefix.adapters": ("Adapter", "load_adapter", "predict"),
    "jaxprefix.allocator": ("keep_large_buffers",),
    "jaxprefix.attention": ("VirtualTokens", "kernel_attention"),
    "jaxprefix.comparison": ("Comparison", "Entry", "compare"),
    "jaxprefix.data.examples": ("TargetSpec",),
    "jaxprefix.data.sources": ("Files", "InMemory", "Tfds"),
    "jaxprefix.distributed.mesh": ("MeshShape",),
    "jaxprefix.edits": (*("Context", "Dims", "Edits", "LayerEdit", "Leaf", "declare", "edit", "leaf", "static"),),
    "jaxprefix.errors": ("RunFailed", "UserError"),
    "jaxprefix.exchange.adapters_library": ("import_adapters",),
    "jaxprefix.exchange.p_tuning_v2": ("import_p_tuning_v2",),
    "jaxprefix.exchange.peft": ("export_peft", "import_peft"),
    "jaxprefix.exchange.transformers_classifier": ("import_transformers",),
    "jaxprefix.generation": ("Decoding", "Generated", "generate", "stream"),
    "jaxprefix.hf.loading": ("load_pretrained",),
    "jaxprefix.hf.saving": ("save_pretrained",),
    "jaxprefix.inspection": ("describe", "p_tuning_v2_plus", "read_gates"),
    "jaxprefix.methods": tuple(PUBLIC),
    "jaxprefix.models.backbone_config": ("BackboneConfig",),
    "jaxprefix.models.backbones": ("register_backbone",),
    "jaxprefix.models.decoder": ("Decoder",),
    "jaxprefix.models.decoder_config": ("DecoderConfig",),
    "jaxprefix.models.encoder": ("Encoder",),
    "jaxprefix.models.encoder_config": ("EncoderConfig",),
    "jaxprefix.models.heads": ("CausalLM", "Head", "LinearHead", "MaskedLM", "PooledHead", "register_head"),
    "jaxprefix.models.merging": ("merge_lora",),
    "jaxprefix.models.positions": ("convert_positions",),
    "jaxprefix.models.tuned": ("TunedModel",),
    "jaxprefix.population": ("PopulationResult", "grid", "train_population"),
    "jaxprefix.self_check": ("Check", "check"),
    "jaxprefix.serving.bank": ("Bank", "load_adapters"),
    "jaxprefix.starts": (
        *("AdapterStart", "LabelStart", "SinkStart", "TextStart", "TokenStart", "VocabularyStart", "start"),
    ),
    "jaxprefix.tasks": tuple(TASKS),
    "jaxprefix.tasks.formats": ("CnnDailyMail", "CoQA", "E2E", "Format", "Piece", "WebNLG", "WebNLGTable"),
    "jaxprefix.training.config": ("NewBackbone", "Run"),
    "jaxprefix.training.loop": ("train",),
    "jaxprefix.training.optimizer": ("Optimizer",),
    "jaxprefix.typed_json": ("register",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_MODULES = ("published",)
__all__ = sorted([*_HOME, *_MODULES])  # pyright: ignore[reportUnsupportedDunderAll]  # made from one table


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"jaxprefix.{name}")
    if name not in _HOME:
        if name in NAMES:
            raise AttributeError(f"jaxprefix.{name} is now jaxprefix.{NAMES[name]}; use that name")
        near = difflib.get_close_matches(name, __all__, n=1)
        hint = f"; the nearest known name is {near[0]!r}" if near else ""
        raise AttributeError(f"module 'jaxprefix' has no attribute {name!r}{hint}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
