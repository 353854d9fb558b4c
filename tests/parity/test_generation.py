"""Greedy decoding and beam search against transformers' `generate` on random tiny models."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxprefix as jp
from jaxprefix.hf.loading import read_backbone
from jaxprefix.models.backbones import make_backbone

pytestmark = pytest.mark.parity
SIZES = {
    "vocab_size": 47,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
NEW, PROMPT = 9, 6
SEARCHES = {
    "greedy": {"num_beams": 1},
    "three beams": {"num_beams": 3},
    "no length penalty": {"num_beams": 4, "length_penalty": 0.0},
    "long texts": {"num_beams": 2, "length_penalty": 2.0, "min_new_tokens": 4},
    "several stops": {"num_beams": 4, "length_penalty": 0.5, "eos_token_id": [1, 5, 7]},
}
MARGIN = 1e-3  # of scores: texts that are nearer to each other may change places


@pytest.fixture(scope="module", params=range(4))
def pair(request, tmp_path_factory):
    """The same random model in both libraries, and left-padded prompts."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(request.param)
    theirs = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    with torch.no_grad():
        for leaf in theirs.parameters():
            leaf.add_(0.3 * torch.randn_like(leaf))
    folder = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(folder)
    config, tree, _ = read_backbone(folder)
    rng = np.random.default_rng(request.param)
    mask = np.arange(PROMPT) >= np.array([3, 0, 1, 0])[:, None]
    ids = np.where(mask, rng.integers(3, SIZES["vocab_size"], mask.shape), SIZES["pad_token_id"])
    model = jp.TunedModel(make_backbone(config), jp.HeadOnly(), jp.CausalLM())
    return theirs, model, {"backbone": tree, "initialized": {}}, ids, mask


@pytest.mark.parametrize("name", SEARCHES)
def test_texts_and_scores_are_those_of_transformers(pair, name):
    import torch

    theirs, model, frozen, ids, mask = pair
    options = SEARCHES[name]
    found = theirs.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(mask).long(),
        max_new_tokens=NEW,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        num_return_sequences=options["num_beams"],
        **options,
    )
    stop = tuple(options.get("eos_token_id", [1]))
    decoding = jp.Decoding(
        max_new_tokens=NEW,
        beams=options["num_beams"],
        length_penalty=options.get("length_penalty", 1.0),
        min_new_tokens=options.get("min_new_tokens", 0),
        stop=stop,
        pad=2,
    )
    ours = jp.generate(model, {}, frozen, {"input_ids": jnp.asarray(ids), "attention_mask": mask}, decoding)
    texts = found.sequences[:, PROMPT:].numpy().reshape(len(ids), options["num_beams"], -1)
    if name == "greedy":
        clear = np.ones(len(ids), bool)
    else:
        scores = found.sequences_scores.numpy().reshape(len(ids), -1)
        clear = scores[:, 0] - scores[:, 1] > MARGIN
        np.testing.assert_allclose(ours.scores, scores[:, 0], atol=1e-4)
    assert clear.sum() >= 2
    for row in np.flatnonzero(clear):
        length = int(ours.lengths[row])
        expected = texts[row, 0][:length]
        assert (np.asarray(ours.tokens)[row, :length] == expected).all()
        assert length == NEW or expected[-1] in stop
        assert (texts[row, 0][length:] == 2).all()
