"""The least products of an update: by hand for each kind of layer and of what is trained."""

import jax
import pytest

from jaxprefix.analysis.least_flops import least_flops
from jaxprefix.methods import FullFineTuning, HeadOnly, LoRA, PromptTuning, PTuningV2
from jaxprefix.models.backbones import drawn_backbone, make_backbone
from jaxprefix.models.decoder_config import DecoderConfig
from jaxprefix.models.encoder_config import EncoderConfig
from jaxprefix.models.heads import CausalLM
from jaxprefix.models.tuned import TunedModel
from jaxprefix.tasks import SequenceClassifier, TokenClassifier

ENCODER = EncoderConfig("bert", 60, 64, 3, 4, 128, 80)
DECODER = DecoderConfig("llama", 96, 64, 4, 4, 2, 16, 160, 512, pattern=("sliding", "full"), window=8)


def model_of(config, method, head):
    model = TunedModel(make_backbone(config), method, head)
    shapes = jax.eval_shape(lambda key: drawn_backbone(config, key), jax.random.key(0))
    return model, jax.eval_shape(model.init, jax.random.key(0), shapes)[0]


@pytest.mark.parametrize("head", [SequenceClassifier(3), TokenClassifier(3)])
def test_a_prefix_of_an_encoder_by_hand(head):
    """N = B T rows of D = 64, P = 8: the lowest layer's gradients end at queries, keys and values."""
    model, trainable = model_of(ENCODER, PTuningV2(length=8), head)
    count, classified = 8 * 32, 8 * 32 if isinstance(head, TokenClassifier) else 8
    linear, kernel = 2 * count * (4 * 64 * 64 + 2 * 64 * 128), 2 * classified * 64 * 3
    attention, virtual = 4 * count * (32 + 8) * 64, 4 * count * 8 * 64
    least = least_flops(model, trainable, 8, 32)
    assert least.forward == 3 * (linear + attention) + kernel
    lowest = linear - 2 * count * 3 * 64 * 64 + virtual // 2
    assert least.activations == lowest + 2 * (linear + 2 * attention - virtual) + kernel
    assert least.trained == 3 * virtual + kernel
    assert least.total == least.forward + least.backward == least.forward + least.activations + least.trained


def test_every_matrix_of_full_fine_tuning_has_its_gradient():
    model, trainable = model_of(ENCODER, FullFineTuning(), SequenceClassifier(3, pooling="first"))
    linear, kernel = 2 * 4 * 16 * (4 * 64 * 64 + 2 * 64 * 128), 2 * 4 * 64 * 3
    attention = 4 * 4 * 16 * 16 * 64
    least = least_flops(model, trainable, 4, 16)
    assert least.trained == 3 * linear + kernel
    assert least.activations == 3 * (linear + 2 * attention) + kernel


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
    brute = [sum(min(query + 1, 8) for query in range(32)) / 32, sum(range(1, 33)) / 32]
    assert [DECODER.seen_tokens(layer, 32) for layer in (0, 1)] == brute
    assert ENCODER.seen_tokens(0, 32) == 32
