"""What the tests of starts share: a tokenizer for the tiny random backbones, and rows behind a text."""

import functools

import jax
import numpy as np

from jaxprefix.methods import PromptTuning, PTuningV2
from jaxprefix.models.decoder import Decoder
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.tuned import TunedModel
from tests import decoders, tiny

TEXT = "w7 w30 w12 w41 w12"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@functools.cache
def tokenizer(start: str | None = None):
    """Words w5, w6, ... whose ids are their numbers; `start` is a token that is put before texts."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {**{word: i for i, word in enumerate(SPECIAL)}, **{f"w{i}": i for i in range(5, decoders.VOCAB)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if start is not None:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{start} $A [SEP]", special_tokens=[(name, words[name]) for name in (start, "[SEP]")]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def ids_of(text=TEXT):
    return [int(word[1:]) for word in text.split()]


def backbone(kind):
    """A scan, which compiles sooner."""
    if kind in decoders.KINDS:
        return Decoder(decoders.config(kind), unroll=False)
    return Encoder(tiny.config(kind), unroll=False)


def tree_of(kind):
    return (decoders if kind in decoders.KINDS else tiny).frozen_tree(kind)


@functools.cache
def tuned(kind, method, head=None, seed=0):
    """Model and trees on a tiny random backbone; as `init` draws them where the method's start is more than numbers."""
    model = TunedModel(backbone(kind), method, head)
    if type(method) in (PTuningV2, PromptTuning) and not getattr(method, "no_op_start", False):
        return model, *tiny.drawn(model, tree_of(kind), seed)
    return model, *model.init(jax.random.key(seed), tree_of(kind))


def rows():
    """Rows of several lengths."""
    return {name: decoders.batch()[name] for name in ("input_ids", "attention_mask")}


def behind(ids, batch):
    """The batch with these tokens before every row."""
    shape = (batch["input_ids"].shape[0], len(ids))
    return {
        "input_ids": np.concatenate([np.broadcast_to(np.asarray(ids, np.int32), shape), batch["input_ids"]], axis=1),
        "attention_mask": np.concatenate([np.ones(shape, bool), batch["attention_mask"]], axis=1),
    }


def in_context(kind, ids, batch):
    """Hidden states of the frozen backbone for the rows behind these tokens."""
    found = _frozen_hidden(backbone(kind), tree_of(kind), behind(ids, batch))
    return np.asarray(found)[:, len(ids) :]


@functools.partial(jax.jit, static_argnums=0)
def _frozen_hidden(module, tree, batch):
    return module.apply({"params": {part: tree[part] for part in module.parts}}, batch).hidden


def hidden(model, trainable, frozen, batch):
    return np.asarray(model.apply(trainable, frozen, batch).hidden)


def assert_same(found, wanted, mask, atol=1e-5):
    keep = np.asarray(mask)
    np.testing.assert_allclose(found[keep], wanted[keep], atol=atol, rtol=1e-5)
