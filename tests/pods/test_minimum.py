"""The least products of an update: by hand, and beside the count for prefixes alone."""

import jax
import pytest

from jaxprefix.analysis.flops import minimum_flops
from jaxprefix.analysis.least_flops import least_flops, seen_tokens
from jaxprefix.methods import FullFineTuning, HeadOnly, LoRA, PromptTuning, PTuningV2
from jaxprefix.models.backbones import drawn_backbone, make_backbone
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.models.heads import CausalLM, SequenceClassifier, TokenClassifier
from jaxprefix.models.tuned import TunedModel

ENCODER = EncoderConfig("bert", 60, 64, 3, 4, 128, 80)
DECODER = DecoderConfig("llama", 96, 64, 4, 4, 2, 16, 160, 512, pattern=("sliding", "full"), window=8)


def model_of(config, method, head):
    model = TunedModel(make_backbone(config), method, head)
    shapes = jax.eval_shape(lambda key: drawn_backbone(config, key), jax.random.key(0))
    return model, jax.eval_shape(model.init, jax.random.key(0), shapes)[0]


@pytest.mark.parametrize("head", [SequenceClassifier(3), TokenClassifier(3)])
def test_it_agrees_with_the_count_for_prefixes(head):
    model, trainable = model_of(ENCODER, PTuningV2(length=8), head)
    zeros = jax.tree.map(lambda leaf: jax.numpy.zeros(leaf.shape), trainable)
    least = least_flops(model, trainable, 8, 32).total
    # the gradient of the head's own kernel is the one product that this count leaves out
    rows = 8 * 32 if isinstance(head, TokenClassifier) else 8
    assert minimum_flops(model, zeros, 8, 32).total - least == 2 * rows * 64 * 3


def test_a_gated_decoder_by_hand():
    model, trainable = model_of(DECODER, LoRA(("q",)), CausalLM())
    rows, tokens = 2, 32
    count = rows * tokens
    maps = 2 * count * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 160)
    sliding = (8 * 9 / 2 + 24 * 8) / 32
    seen = 2 * (sliding + 33 / 2)
    head = 2 * count * 64 * 96
    least = least_flops(model, trainable, rows, tokens)
    assert least.forward == 4 * maps + 4 * count * 64 * seen + head
    below = 2 * count * (64 * 64 + 2 * 64 * 32) + 2 * 4 * count * 64 * sliding
    assert least.backward == 4 * maps + 2 * 4 * count * 64 * seen + head - below


def test_what_is_trained_decides_how_far_gradients_flow():
    def backward(method):
        model, trainable = model_of(ENCODER, method, SequenceClassifier(3))
        least = least_flops(model, trainable, 4, 16)
        return least.backward / least.forward

    assert backward(HeadOnly()) < 0.01
    assert backward(PTuningV2(length=4)) < backward(PromptTuning(length=4)) < 1.2
    assert backward(FullFineTuning()) > 0.9


def test_causal_queries_see_half_and_windows_less():
    model, _ = model_of(DECODER, LoRA(("q",)), CausalLM())
    dims = model.backbone.dims
    brute = [sum(min(query + 1, 8) for query in range(32)) / 32, sum(range(1, 33)) / 32]
    assert [seen_tokens(DECODER, dims, layer, 32) for layer in (0, 1)] == brute
    assert seen_tokens(ENCODER, model_of(ENCODER, HeadOnly(), SequenceClassifier(3))[0].backbone.dims, 0, 32) == 32
