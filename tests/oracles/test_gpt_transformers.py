"""Weights that transformers saved, and the logits of its models: GPT-2, LLaMA, Qwen2."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers

from examples.gpt import model
from examples.gpt.config import Config
from examples.gpt.weights import load_gpt2, load_llama
from examples.runs.errors import UserError

pytestmark = pytest.mark.oracle

V, L = 53, 12
TOKENS = np.random.default_rng(0).integers(0, V, (3, L))
_LLAMA = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
_GPT2 = {"vocab_size": V, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
CASES = {
    "gpt2": (load_gpt2, transformers.GPT2LMHeadModel, transformers.GPT2Config(**_GPT2)),
    "gpt2 exact gelu, untied": (
        load_gpt2,
        transformers.GPT2LMHeadModel,
        transformers.GPT2Config(
            **_GPT2, n_inner=48, activation_function="gelu", tie_word_embeddings=False
        ),
    ),
    "llama": (load_llama, transformers.LlamaForCausalLM, transformers.LlamaConfig(**_LLAMA)),
    "qwen": (
        load_llama,
        transformers.Qwen2ForCausalLM,
        transformers.Qwen2Config(**_LLAMA, rope_theta=1e6, tie_word_embeddings=True),
    ),
}


def saved(name, folder):
    """A model of theirs with weights that all count, saved; and its logits."""
    _, cls, config = CASES[name]
    torch.manual_seed(0)
    theirs = cls(config).double().eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight += 0.1 * torch.randn_like(weight)
        logits = theirs(torch.tensor(TOKENS)).logits.numpy()
    theirs.save_pretrained(folder)
    return logits


@pytest.mark.parametrize("name", CASES)
def test_logits_are_equal(name, tmp_path, x64):
    expected = saved(name, tmp_path)
    config = Config(block_size=L, dtype="float64")
    config, params = CASES[name][0](tmp_path, config, V)
    logits = jax.jit(model.apply, static_argnums=0)(model.make_graph(config, V), params, TOKENS)
    # Rotary angles and the RMSNorm are float32 in transformers, whatever the weights are.
    bound = 1e-9 if name.startswith("gpt2") else 2e-6
    np.testing.assert_allclose(logits, expected, rtol=bound, atol=bound)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_float32_logits_with_a_padded_vocabulary_are_equal(name, tmp_path):
    expected = saved(name, tmp_path)
    config, params = CASES[name][0](tmp_path, Config(block_size=L), V + 11)
    logits = jax.jit(model.apply, static_argnums=0)(
        model.make_graph(config, V + 11), params, TOKENS
    )
    np.testing.assert_allclose(logits[..., :V], expected, rtol=1e-5, atol=1e-5)


def test_scaled_rotary_positions_are_refused(tmp_path):
    scaled = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    config = transformers.LlamaConfig(**_LLAMA, rope_parameters=scaled)
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="rope_type 'linear'"):
        load_llama(tmp_path, Config(block_size=L))
