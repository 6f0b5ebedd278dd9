"""Stacks' default rules on trees that are named as theirs; the regexes of the originals beside."""

import re

import numpy as np
import pytest

from wdlab import rules
from wdlab.rules import check_rules, decay_scales, leaves_with_paths

MATRIX, VECTOR, SCALAR = np.zeros((4, 3)), np.zeros(3), np.zeros(())
NORM = {"weight": VECTOR}
MEGATRON = {
    "embedding": {"word_embeddings": {"weight": MATRIX}},
    "decoder": {
        "layers": {
            "0": {
                "self_attention": {
                    "linear_qkv": {"weight": MATRIX, "bias": VECTOR, "layer_norm_weight": VECTOR},
                    "q_layernorm": {"weight": VECTOR, "bias": VECTOR},
                    "k_layernorm": NORM,
                },
                "mlp": {"linear_fc1": {"weight": MATRIX, "bias": VECTOR}},
            }
        },
        "final_layernorm": NORM,
    },
    "output_layer": {"weight": MATRIX, "scale": SCALAR},
}
OLMO = {
    "embeddings": {"weight": MATRIX},
    "blocks": {"0": {"attention": {"w_q": NORM, "q_norm": NORM}, "feed_forward_norm": NORM}},
    "lm_head": {"norm": NORM, "w_out": {"weight": MATRIX}},
}
TITAN = {
    "tok_embeddings": {"weight": MATRIX},
    "layers": {"0": {"attention": {"wq": {"weight": MATRIX}}, "attention_norm": NORM}},
    "norm": NORM,
    "output": {"weight": MATRIX},
}
LLAMA = {
    "model": {
        "embed_tokens": {"weight": MATRIX},
        "layers": {
            "0": {
                "self_attn": {"q_proj": {"weight": MATRIX, "bias": VECTOR}, "q_norm": NORM},
                "input_layernorm": NORM,
                "mamba": {"A_log": MATRIX, "dt_bias": VECTOR, "D": VECTOR},
                "normalizer": {"weight": VECTOR},
            }
        },
        "norm": NORM,
    },
    "transformer": {"ln_f": NORM, "h": {"0": {"ln_1": {**NORM, "bias": VECTOR}}}},
    "lm_head": {"weight": MATRIX},
}
MAXTEXT = {
    "params": {
        "token_embedder": {"embedding": MATRIX},
        "decoder": {
            "decoder_norm": {"scale": VECTOR},
            "layers": {"mlp": {"wi_0": {"kernel": MATRIX}}, "pre_norm": {"scale": MATRIX}},
        },
    }
}
NANOCHAT = {
    "transformer": {
        "wte": {"weight": MATRIX},
        "h": {"0": {"attn": {"c_q": {"weight": MATRIX}}, "mlp": {"c_fc": {"weight": MATRIX}}}},
    },
    "value_embeds": {"1": {"weight": MATRIX}},
    "lm_head": {"weight": MATRIX},
    "resid_lambdas": VECTOR,
    "x0_lambdas": VECTOR,
    "smear_gate": {"weight": MATRIX},
    "smear_lambda": SCALAR,
    "backout_lambda": SCALAR,
}


def scales(params, preset):
    check_rules(params, preset)
    return dict(leaves_with_paths(decay_scales(params, preset)))


@pytest.mark.parametrize(
    ("preset", "params"),
    [(rules.TORCHTITAN, TITAN), (rules.MAXTEXT, MAXTEXT), (rules.KAULDRON, MAXTEXT)],
)
def test_three_decay_all(preset, params):
    assert set(scales(params, preset).values()) == {1.0}


def test_olmo_exempts_its_embedding_alone_and_misses_it():
    found = scales(OLMO, rules.OLMO_CORE)
    assert [path for path, scale in found.items() if scale == 0] == ["embeddings/weight"]
    with pytest.raises(ValueError, match="embeddings"):
        check_rules(TITAN, rules.OLMO_CORE)


@pytest.mark.parametrize("qk", [False, True])
def test_megatron_goes_by_rank_and_bias(qk):
    preset = rules.MEGATRON_QK_LAYERNORM if qk else rules.MEGATRON
    shapes = dict(leaves_with_paths(MEGATRON))
    for path, scale in scales(MEGATRON, preset).items():
        name = path.replace("/", ".")
        exempt = len(shapes[path].shape) == 1 or name.endswith(".bias")
        if qk:  # The predicate of get_standard_config_overrides.
            exempt = exempt and not ("q_layernorm." in name or "k_layernorm." in name)
        assert scale == float(not exempt), path


def test_the_trainer_of_transformers_goes_by_its_patterns_and_layer_norms():
    patterns = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]
    of_type = ("transformer/ln_f/weight", "transformer/h/0/ln_1/weight")  # nn.LayerNorm.
    for path, scale in scales(LLAMA, rules.HF_TRAINER).items():
        name = path.replace("/", ".").lower()
        exempt = path in of_type or any(re.search(pattern, name) for pattern in patterns)
        assert scale == float(not exempt), path
    found = scales(LLAMA, rules.HF_TRAINER)
    assert found["model/layers/0/mamba/D"] == found["model/embed_tokens/weight"] == 1.0
    assert found["model/layers/0/normalizer/weight"] == 1.0


def test_nanochat_s_groups():
    adamw = scales(NANOCHAT, rules.NANOCHAT_ADAMW)
    assert adamw["lm_head/weight"] == adamw["value_embeds/1/weight"] == 0.01
    assert adamw["transformer/wte/weight"] == 0.001
    assert adamw["resid_lambdas"] == 0.05
    muon = scales(NANOCHAT, rules.NANOCHAT_MUON)
    assert {path for path, scale in muon.items() if scale} == {
        path for path in adamw if path.startswith("transformer/h/")
    }
    assert not any(adamw[path] and muon[path] for path in adamw)
    with pytest.raises(ValueError, match="new_gate"):
        decay_scales({**NANOCHAT, "new_gate": MATRIX}, rules.NANOCHAT_ADAMW)
