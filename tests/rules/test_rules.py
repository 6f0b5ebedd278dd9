"""Rules, presets, and the mistakes people make with them."""

import warnings

import jax
import numpy as np
import optax
import pytest

import wdlab
from wdlab import rules
from wdlab.rules import (
    Rule,
    check_rules,
    decay_scales,
    leaves_with_paths,
    nearest_path,
    presets,
    stacks,
)

GPT = {
    "wte": {"embedding": np.ones((8, 4))},
    "wpe": {"embedding": np.ones((6, 4))},
    "blocks": [
        {
            "ln_1": {"scale": np.ones(4), "bias": np.ones(4)},
            "attn": {"c_attn": {"kernel": np.ones((4, 12)), "bias": np.ones((3, 4))}},
            "ln_2": {"scale": np.ones(4), "bias": np.ones(4)},
            "mlp": {"c_fc": {"kernel": np.ones((4, 16)), "bias": np.ones(16)}},
        }
    ],
    "ln_f": {"scale": np.ones(4), "bias": np.ones(4)},
}


def decayed(params, policy):
    scales = leaves_with_paths(decay_scales(params, policy))
    return {path for path, scale in scales if scale > 0}


KERNELS = {"blocks/0/attn/c_attn/kernel", "blocks/0/mlp/c_fc/kernel"}
EMBEDDINGS = {"wte/embedding", "wpe/embedding"}
INNER_NORMS = {"blocks/0/ln_1/scale", "blocks/0/ln_2/scale"}
EVERYTHING = {path for path, _ in leaves_with_paths(GPT)}
PRESETS = {
    "ALL": EVERYTHING,
    "NO_BIAS_OR_NORM": KERNELS | EMBEDDINGS,
    "KERNELS_ONLY": KERNELS,
    "MATRICES_ONLY": KERNELS | EMBEDDINGS | {"blocks/0/attn/c_attn/bias"},  # Rank is not role.
    "BERT": KERNELS | EMBEDDINGS,
    "NANOGPT": KERNELS | EMBEDDINGS,
    "MINGPT": KERNELS,
    "DEEPSPEED_CHAT": KERNELS | EMBEDDINGS | INNER_NORMS,  # 'ln_1' is not in its list.
    "BIG_VISION": KERNELS,
    "STATE_SPACE": KERNELS | EMBEDDINGS,
    "HIDDEN_MATRICES": KERNELS,
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_on_a_gpt(name):
    assert decayed(GPT, getattr(rules, name)) == PRESETS[name]


def test_every_preset_is_tested():
    public = {n for n in dir(rules) if n.isupper() and isinstance(getattr(rules, n)[0], Rule)}
    of_roles = {n for n in public if n.startswith("ROLE_")}
    of_stacks = {n for n in public if hasattr(stacks, n) and not hasattr(presets, n)}
    assert public - of_roles - of_stacks == set(PRESETS)


@pytest.mark.parametrize("path", ["rescale_proj/kernel", "bias_net/kernel", "bnet/w", "gnn/weight"])
def test_no_substring_exempts_a_matrix(path):
    tree = {path.split("/")[0]: {path.split("/")[1]: np.ones((2, 2))}}
    assert decayed(tree, rules.NO_BIAS_OR_NORM) == {path}


def test_mingpt_wants_full_coverage():
    with pytest.raises(ValueError, match="head/temperature"):
        decay_scales({"head": {"temperature": np.ones(())}}, rules.MINGPT)


def test_containing_goes_by_name_so_biases_decay_too():
    got = decayed(GPT, rules.containing("wte wpe mlp attn lm_head"))
    attn_and_mlp = {p for p in EVERYTHING if "attn" in p or "mlp" in p}
    assert got == EMBEDDINGS | attn_and_mlp
    with pytest.raises(ValueError, match="words"):
        rules.containing("  ")


def test_first_match_wins_and_scales_are_floats():
    policy = (Rule("wte/.*", 0.25), Rule(".*embedding", 2.0), Rule(".*", False))
    scales = decay_scales(GPT, policy)
    assert scales["wte"]["embedding"] == 0.25
    assert scales["wpe"]["embedding"] == 2.0
    assert all(type(s) is float for s in jax.tree.leaves(scales))
    assert jax.tree.structure(scales) == jax.tree.structure(GPT)


def test_rank_condition():
    assert decayed(GPT, (Rule(".*", ndim=2), Rule(".*", 0.0))) == PRESETS["MATRICES_ONLY"]
    assert decayed(GPT, (Rule(".*", ndim=(0, 1)), Rule(".*", 0.0))).isdisjoint(KERNELS)


def test_unmatched_leaf_names_the_leaf_and_the_line_to_write():
    with pytest.raises(ValueError, match=r"ln_f/bias.*Rule\('\.\*', scale\)"):
        decay_scales({"ln_f": {"bias": np.ones(2)}}, (Rule("kernel"),))


# Twenty mistakes, each refused at construction or by check_rules, most naming a real path.
def _gpt_tree(**changes):
    return {"wte": 1.0, "wpe": 1.0, "blocks": 1.0, "ln_f": 0.0} | changes


def _without(tree, key):
    return {k: v for k, v in tree.items() if k != key}


END = (Rule(".*"),)
NOTHING = (Rule(".*", 0.0),)
TYPOS = {
    "misspelt_name": ((Rule("(.*/)?bais", 0.0), *END), "bias"),
    "wrong_case": ((Rule("(.*/)?LN_1/.*", 0.0), *END), "ln_1"),
    "other_framework": ((Rule(".*weight$"), *NOTHING), "embedding|kernel"),
    "misspelt_kernel": ((Rule(".*/kernal"), *NOTHING), "kernel"),
    "leading_params": ((Rule("^params/.*kernel"), *NOTHING), "kernel"),
    "dots_for_slashes": ((Rule(r"wte\.embedding"), *NOTHING), "wte/embedding"),
    "nnx_value_suffix": ((Rule("(.*/)?kernel/value"), *NOTHING), "kernel"),
    "not_a_full_match": ((Rule("kernel"), *NOTHING), "kernel"),
    "wrong_layer_name": ((Rule("block/.*"), *NOTHING), "blocks/0"),
    "wrong_index": ((Rule("blocks/7/.*", 0.0), *END), "blocks/0"),
    "shadowed_rule": ((Rule(".*embedding"), Rule("wpe/.*", 0.0), *END), "wpe/embedding"),
    "rank_that_is_not": ((Rule(".*kernel", ndim=4), *NOTHING), "kernel"),
    "no_rule_for_the_rest": ((Rule(".*kernel"), Rule(".*bias", 0.0)), "wte/embedding"),
    "invalid_regex": (lambda: (Rule("(.*bias", 0.0), *END), r"\(\.\*bias"),
    "function": (lambda params: True, "function"),
    "tree_with_misspelt_key": (_without(_gpt_tree(wtte=1.0), "wte"), "wte"),
    "tree_with_a_key_missing": (_without(_gpt_tree(), "ln_f"), "ln_f"),
    "tree_of_strings": (_gpt_tree(wte="decay"), "wte"),
    "tree_with_none": (_gpt_tree(wte=None), "wte"),
    "everything_exempt": ((Rule(".*kernel", 0.0), *NOTHING), "no parameter decays"),
    "everything_decays": ((Rule(".*kernel"), Rule(".*", 0.5)), "every parameter decays"),
    "inverted": ((Rule(".*(kernel|embedding)", 0.0), *END), "only biases and norms"),
    "one_rule_without_tuple": (Rule(".*"), r"\(Rule"),
    "names for rules": (("bias", "scale"), r"rules=\(Rule\('\(\.\*/\)\?bias', 0.0\), Rule"),
    "a name among rules": ((Rule("wte/.*"), "bias"), "every entry must be a Rule, got 'bias'"),
    "pairs": ((("bias", 0.0), (".*", 1.0)), r"every entry must be a Rule, got \('bias', 0.0\)"),
    "exponential": (lambda: (Rule("(a+)+b"),), "exponential time"),
    "string": ("NO_BIAS_OR_NORM", "wdlab.rules.NO_BIAS_OR_NORM"),
    "negative_scale": (lambda: (Rule(".*", -1.0),), "scale"),
    "nan_in_tree": (_gpt_tree(wte=float("nan")), "wte"),
}


@pytest.mark.parametrize("name", TYPOS)
def test_typos_are_refused_and_name_what_is_near(name):
    policy, message = TYPOS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        check_rules(GPT, policy() if callable(policy) and name != "function" else policy)


def test_uniform_rules_need_an_explicit_yes():
    policy = (Rule(".*kernel"), Rule(".*", 0.5))
    check_rules(GPT, policy, allow_uniform=True)
    check_rules(GPT, rules.ALL)
    check_rules(GPT, (Rule(".*", 0.0),))
    check_rules(GPT, 1.0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_pass_the_check(name):
    check_rules(GPT, getattr(rules, name))


def test_a_misspelt_rule_warns_at_init_where_no_one_called_check_rules():
    policy = (Rule("(.*/)?bais", 0.0), Rule(".*"))
    with pytest.warns(rules.RuleWarning, match="bais.*nearest path"):
        wdlab.decay_weights(0.1, rules=policy).init(GPT)
    mask = {"wte": True, "wpe": True, "blocks": False, "ln_f": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # A part of the tree says nothing about the whole.
        optax.masked(wdlab.decay_weights(0.1, rules=policy), mask).init(GPT)


def test_nearest_path():
    paths = [path for path, _ in leaves_with_paths(GPT)]
    assert nearest_path("wpe/embeding", paths) == "wpe/embedding"
    assert nearest_path("anything", []) is None


def test_one_entry_or_leaves_of_one_kind_say_what_they_mean():
    vector, matrix = np.ones(2), np.ones((2, 2))
    check_rules({"bias": vector}, (Rule(".*"),))
    check_rules({"bias": vector, "kernel": matrix}, (Rule(".*", 0.0),))
    check_rules({"bias": vector, "scale": vector}, (Rule("bias"), Rule(".*", 0.0)))
    check_rules({"kernel": matrix, "w": matrix}, (Rule("w", 0.0), Rule(".*")))
    two = {"bias": vector, "kernel": matrix}
    for wrong in ((Rule("bias"), Rule(".*", 0.0)), (Rule("bias"), Rule(".*"))):
        with pytest.raises(ValueError, match="Under these rules"):
            check_rules(two, wrong)
