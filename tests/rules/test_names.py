"""Names and ranks of parameters in real code bases, and what NO_BIAS_OR_NORM makes of them."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest

import wdlab
from wdlab import rules

# Rank of the leaf -> paths. Rank 2 of a vector is nn.scan's, or attention's (heads, head_dim).
EXEMPT = {
    "Flax": (1, "Dense_0/bias LayerNorm_0/scale LayerNorm_0/bias RMSNorm_0/scale bn_1/scale"),
    "Flax attention": (2, "attn/query/bias attn/key/bias MultiHeadDotProductAttention_0/out/bias"),
    "Flax under scan": (2, "blocks/ln_1/scale blocks/ln_1/bias blocks/mlp/c_fc/bias"),
    "Flax attention under scan": (3, "layers/attn/query/bias"),
    "Haiku": (1, "linear/b transformer/~/h0/layer_norm/scale layer_norm/offset batch_norm/offset"),
    "Haiku stack": (2, "linear/b layer_norm/offset batch_norm/beta"),
    "Equinox": (1, "layers/0/bias layers/1/weight norm/weight"),
    "T5": (1, "block/0/layer/0/layer_norm/weight final_layer_norm/weight encoder_norm/scale"),
    "HF": (1, "layernorm_before/scale LayerNorm/bias ln_f/scale input_layernorm/weight lambda_1"),
    "HF stacked": (2, "input_layernorm/weight layernorm_before/weight norm_f/weight lambda_1"),
    "LLaMA by hand": (2, "attention_norm ffn_norm q_norm k_norm rms_att_weight rms_ffn_weight"),
    "MLPs by hand": (1, "b1 b2 b_1 bias1 bias_2 0/1 layer1/b_out bo bq in_bias mlp_b scale1 ln_1"),
    "bias words": (2, "q_bias qkv_bias bias_k in_proj_bias expert_bias e_score_correction_bias"),
    "ViTs": (1, "ls1/gamma gamma_1 gamma_2 layer_scale_1 layer_scale/scale lambda1 logit_scale"),
    "ViTs stacked": (2, "gamma_1 ls1/gamma layer_scale_1 layer_scale layerscale gamma beta"),
    "ConvNeXt, Swin": (1, "stages/0/blocks/1/gamma relative_position_bias_table"),
    "state spaces": (1, "A_log D dt_bias mixer/D ssm/Lambda_re log_step nu_log a_param"),
    "RWKV": (1, "time_decay time_first time_mix_k"),
    "LoRA and kin": (1, "lora_b/bias vera_lambda_b dora/magnitude lora_magnitude_vector ia3_gate"),
    "gates, gains": (1, "alpha gate skip_gain temperature tau rezero/alpha prelu/alpha slopes"),
    "scalars": (0, "logit_scale logit_bias temperature gain"),
    "flat names": (1, "blocks.0.attn.qkv.bias blocks.0.ln_1.weight encoder.norm.weight"),
}  # fmt: skip
DECAYED = {
    "Flax": (2, "Dense_0/kernel Embed_0/embedding head/kernel rescale/kernel debias_kernel"),
    "Flax attention": (3, "attn/query/kernel attn/out/kernel pos_embedding"),
    "convolutions": (4, "conv/kernel bias_net/kernel bias_proj gamma_net/kernel norm_conv/kernel"),
    "Haiku": (2, "linear/w embed/embeddings linear_1/w"),
    "Equinox": (2, "layers/0/weight embed/weight"),
    "T5": (2, "relative_attention_bias/embedding relpos_bias/rel_embedding shared/embedding"),
    "LoRA": (2, "lora_a lora_b w_lora_b kernel_lora_b lora/b kernel/b q_proj/lora_B/kernel"),
    "LoRA under scan": (3, "layers/lora_a layers/lora_b layers/kernel_lora_b layers/lora/b"),
    "by hand": (2, "w1 w_2 W proj_b b_proj expert_b mlp_gamma attn_gamma wq wo w_gate b_q"),
    "MoE": (3, "experts/wi_0 experts/wo moe/w1"),
    "S5": (2, "ssm/B ssm/C"),
    "vectors named as weights": (1, "kernel w linear/w weights embedding"),
    "a scalar named as a weight": (0, "kernel w"),
}  # fmt: skip
CASES = [
    pytest.param(path, rank, scale, id=f"{where}: {path} {rank}")
    for scale, table in ((0.0, EXEMPT), (1.0, DECAYED))
    for where, (rank, paths) in table.items()
    for path in paths.split()
]


def one(path, rank):
    return {path: jnp.ones((2,) * rank)}


@pytest.mark.parametrize(("path", "rank", "scale"), CASES)
def test_name_and_rank_decide_together(path, rank, scale):
    assert wdlab.decay_scales(one(path, rank), rules.NO_BIAS_OR_NORM) == {path: scale}


def test_an_array_without_a_name_decays():
    assert wdlab.decay_scales(np.ones(3), rules.NO_BIAS_OR_NORM) == 1.0


OPEN = [("proj_b", 2), ("expert_b", 2), ("mlp_gamma", 2), ("b", 2), ("b1", 3), ("A_log", 2),
        ("theta", 1), ("0", 1)]  # fmt: skip
CLEAR = [("lora_b", 2), ("proj_b", 1), ("gamma_1", 1), ("alpha", 1), ("A_log", 1), ("kernel", 2),
         ("attn/query/bias", 3), ("ln/scale", 2), ("wte", 2), ("cls_token", 1)]  # fmt: skip


@pytest.mark.parametrize(("path", "rank"), OPEN)
def test_what_the_name_leaves_open_is_warned_of_until_a_rule_says_it(path, rank):
    params, policy = one(path, rank), rules.NO_BIAS_OR_NORM
    (warning,) = wdlab.inspect_decay(params, policy).warnings
    assert warning.startswith(f"{path}: ")
    with pytest.warns(rules.RuleWarning, match=f"Rule\\('{path}', 0.0\\)|STATE_SPACE"):
        wdlab.check_rules(params, policy, allow_uniform=True)
    for said in ((rules.Rule(path, 0.0), *policy), rules.MATRICES_ONLY, 1.0):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wdlab.check_rules(params, said, allow_uniform=True)


@pytest.mark.parametrize(("path", "rank"), CLEAR)
def test_what_the_name_says_is_not_warned_of(path, rank):
    assert wdlab.inspect_decay(one(path, rank), rules.NO_BIAS_OR_NORM).warnings == ()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_state_space_exempts_the_recurrence_at_every_rank(rank):
    names = ["A_log", "D", "dt_bias", "log_dt", "log_A_real", "A_imag", "Lambda_re", "log_step",
             "theta_log", "time_mix_k"]  # fmt: skip
    params = {"mixer": {name: jnp.ones((2,) * rank) for name in names}}
    params["mixer"]["in_proj"] = {"kernel": jnp.ones((2, 2))}
    scales = wdlab.decay_scales(params, rules.STATE_SPACE)
    assert {name: 0.0 for name in names} | {"in_proj": {"kernel": 1.0}} == scales["mixer"]
    assert wdlab.inspect_decay(params, rules.STATE_SPACE).warnings == ()
