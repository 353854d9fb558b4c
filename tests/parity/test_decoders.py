"""Every layer's hidden state, the last one and the logits of a decoder equal those of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.hf.loading import read_backbone
from jaxprefix.hf.saving import save_pretrained
from jaxprefix.models.backbones import make_backbone
from jaxprefix.models.heads import CausalLM

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
TOKENS = 11
GPT2 = {"n_embd": 24, "n_head": 4, "n_layer": 2, "n_positions": 32, "vocab_size": 61}
LLAMA = {
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 36,
    "max_position_embeddings": 32,
    "vocab_size": 61,
    "pad_token_id": 0,
}
HEAD = {**LLAMA, "head_dim": 8}  # wider together than the model
ALTERNATING = ["sliding_attention", "full_attention"]
TWO_AND_ONE = ["sliding_attention", "sliding_attention", "full_attention"]
GEMMA = {**HEAD, "query_pre_attn_scalar": 10, "sliding_window": 4}


def rope(kind, **settings):
    theta = 10.0 if kind == "yarn" else 1000.0  # so low that the ramp of yarn has more than one pair
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **settings}}


STRETCHED = {"factor": 3.0, "original_max_position_embeddings": 16}
MODELS = {
    "gpt2": ("gpt2", GPT2),
    "gpt2, untied, n_inner, gelu": (
        *("gpt2", {**GPT2, "n_inner": 20, "activation_function": "gelu", "tie_word_embeddings": False}),
    ),
    "llama": ("llama", LLAMA),
    "llama, every bias, tied, one kv head": (
        "llama",
        {**HEAD, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1},
    ),
    "llama, theta alone": ("llama", {**LLAMA, **rope("default")}),
    "llama, linear": ("llama", {**LLAMA, **rope("linear", factor=3.0)}),
    "llama, dynamic": ("llama", {**LLAMA, "max_position_embeddings": TOKENS, **rope("dynamic", factor=3.0)}),
    "llama, llama3": (
        "llama",
        {**HEAD, **rope("llama3", **STRETCHED, low_freq_factor=1.0, high_freq_factor=4.0)},
    ),
    "llama, yarn": ("llama", {**HEAD, **rope("yarn", **STRETCHED)}),
    "llama, yarn, not truncated": ("llama", {**HEAD, **rope("yarn", **STRETCHED, truncate=False)}),
    "llama, yarn, attention_factor": (
        "llama",
        {**HEAD, **rope("yarn", **STRETCHED, attention_factor=0.7, beta_fast=4.0, beta_slow=0.5)},
    ),
    "llama, yarn, mscale": ("llama", {**HEAD, **rope("yarn", **STRETCHED, mscale=0.9, mscale_all_dim=0.4)}),
    "mistral": ("mistral", {**HEAD, "sliding_window": 4}),
    "mistral without window": ("mistral", {**LLAMA, "sliding_window": None}),
    "qwen2": ("qwen2", LLAMA),
    "qwen2, window in later layers": (
        "qwen2",
        {**LLAMA, "use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    ),
    "qwen3": ("qwen3", HEAD),
    "qwen3, bias": ("qwen3", {**HEAD, "attention_bias": True, "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}),
    "gemma2, a period of 2 in 5 layers": (
        "gemma2",
        {**GEMMA, "num_hidden_layers": 5, "layer_types": (ALTERNATING * 3)[:5], "attn_logit_softcapping": None},
    ),
    "gemma3": ("gemma3_text", {**GEMMA, "layer_types": ALTERNATING}),
    "gemma3, a period of 3 in 5 layers": (
        "gemma3_text",
        {**GEMMA, "num_hidden_layers": 5, "layer_types": (TWO_AND_ONE * 2)[:5], "attention_bias": True},
    ),
    "gemma3, linear in full layers": (
        "gemma3_text",
        {
            **GEMMA,
            "layer_types": ALTERNATING,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            },
        },
    ),
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def saved(folder, kind, options):
    """A model with every parameter moved at random (biases and norms too), in its folder."""
    config = transformers.AutoConfig.for_model(kind, **options)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.ndim == 1 or "emb" in name else 0.15))
    model.save_pretrained(folder)
    return model


def rows():
    """Rows of different lengths, padded on the right, and the same ones padded on the left."""
    random = np.random.default_rng(0)
    ids, lengths = random.integers(3, 61, (3, TOKENS)), (TOKENS, 6, 1)
    right = np.arange(TOKENS) < np.array(lengths)[:, None]
    return np.where(right, ids, 0), right, np.where(right[:, ::-1], ids, 0), right[:, ::-1]


def theirs(model, ids, mask):
    """Hidden states, the last one behind the norm, and logits; positions count real tokens."""
    mask = torch.tensor(mask.astype(int))
    last = []
    norm = model.transformer.ln_f if hasattr(model, "transformer") else model.model.norm
    handle = norm.register_forward_pre_hook(lambda _, arguments: last.append(arguments[0].numpy()))
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(ids),
            attention_mask=mask,
            position_ids=torch.clamp(mask.cumsum(1) - 1, min=0),
            output_hidden_states=True,
            use_cache=False,
        )
    handle.remove()
    states = [state.numpy() for state in out.hidden_states]  # behind the last layer's is the norm
    return np.stack([*states[:-1], last[0]]), states[-1], out.logits.numpy()


def ours(folder, ids, mask, dtype=jnp.float32, unroll=None):
    config, frozen, report = read_backbone(str(folder), dtype=dtype)
    assert report.unused == report.missing == ()
    module = make_backbone(config, dtype, unroll)

    @jax.jit
    def run(frozen, ids, mask):
        params = {name: frozen[name] for name in module.parts}
        out = module.apply({"params": params}, {"input_ids": ids, "attention_mask": mask}, capture=True)
        return out.captured, out.hidden, CausalLM()({}, frozen, out.hidden, mask, module.dims)

    return [np.asarray(x, np.float32) for x in run(frozen, jnp.asarray(ids), jnp.asarray(mask))]


def assert_same(found, expected, mask, tolerance=TOLERANCE):
    """At the real tokens, hidden states first so that a difference is met in the layer where it arises."""
    for layer, (ours, theirs) in enumerate(zip(found[0], expected[0], strict=True)):
        np.testing.assert_allclose(ours[mask], theirs[mask], atol=tolerance, err_msg=f"hidden state {layer}")
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(ours[mask], theirs[mask], atol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_every_hidden_state_and_the_logits(tmp_path, name):
    """Rows padded on the right and on the left as one batch."""
    model = saved(tmp_path, *MODELS[name])
    right, right_mask, left, left_mask = rows()
    ids, mask = np.concatenate([right, left]), np.concatenate([right_mask, left_mask])
    expected = theirs(model, ids, mask)
    assert np.abs(expected[0]).max() > 0.5
    unroll = name.startswith("gpt2")  # the others scan, those of 5 layers with layers left over
    assert_same(ours(tmp_path, ids, mask, unroll=unroll), expected, mask)
    if "5 layers" in name:
        assert_same(ours(tmp_path, ids, mask, unroll=True), expected, mask)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_in_bfloat16_errors_are_those_of_bfloat16(tmp_path, name):
    """As near to the exact states as transformers is in bfloat16, within a factor."""
    model = saved(tmp_path, *MODELS[name])
    ids, mask, _, _ = rows()
    exact = theirs(model, ids, mask)[1][mask]
    found = ours(tmp_path, ids, mask, jnp.bfloat16)[1][mask]
    with torch.no_grad():
        base = model.to(torch.bfloat16).base_model
        rough = (
            base(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int)))[0].float().numpy()[mask]
        )
    assert 1e-4 < np.abs(found - exact).mean() < 1.5 * np.abs(rough - exact).mean()


WRITTEN = ("gpt2", "gpt2, untied, n_inner, gelu", "llama, every bias, tied, one kv head", "llama, yarn", "mistral")
WRITTEN += ("qwen2, window in later layers", "qwen3", "gemma2", "gemma3")


@pytest.mark.parametrize("name", WRITTEN)
def test_transformers_reads_what_is_written(tmp_path, name):
    """From a tree of ours, through `save_pretrained`: the same logits."""
    saved(tmp_path / "theirs", *MODELS[name])
    config, frozen, _ = read_backbone(str(tmp_path / "theirs"))
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, frozen)
    save_pretrained(tmp_path / "ours", config, moved)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    ids, mask, _, _ = rows()
    assert_same(ours(tmp_path / "ours", ids, mask), theirs(model, ids, mask), mask)
    module = make_backbone(config)
    states = module.apply({"params": {name: moved[name] for name in module.parts}}, {"input_ids": jnp.asarray(ids)})
    expected = theirs(model, ids, np.ones_like(mask))[1]
    np.testing.assert_allclose(states.hidden, expected, atol=TOLERANCE)
