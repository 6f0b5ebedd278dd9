"""Settings of the torch run against tx's; every form of a state; 16-bit weights."""

import json
import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.from_torch.test_carry_over import (
    ADAM,
    NAMES,
    ORDER,
    at,
    make_params,
    moments,
    state_dict,
    tensors,
)
from wdlab import optimizers, rules, schedules, training
from wdlab.from_torch import (
    SettingsWarning,
    load_state_dict,
    load_tensors,
    opt_state_from_torch,
    save_state_dict,
)
from wdlab.groups import Group, grouped
from wdlab.preconditioners import scale_by_adam

LR = schedules.warmup_cosine(0.1, warmup_steps=5, decay_steps=200)
STEP = 100
TORCH = {
    "AdamW": {"lr": float(LR(STEP)), "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1,
              "decoupled_weight_decay": True},
    "Adam": {"lr": float(LR(STEP)), "betas": (0.8, 0.99), "eps": 1e-6, "weight_decay": 0.01,
             "decoupled_weight_decay": False},
    "SGD": {"lr": float(LR(STEP - 1)), "momentum": 0.9, "nesterov": False, "weight_decay": 0.01},
    "Nesterov": {"lr": float(LR(STEP)), "momentum": 0.5, "nesterov": True, "weight_decay": 0.0},
    "plain SGD": {"lr": float(LR(STEP)), "momentum": 0, "nesterov": False, "weight_decay": 0.01},
}  # fmt: skip


def adamw(lr=LR, b1=0.9, b2=0.999, eps=1e-8, decay=0.1, policy=rules.ALL, coupling="lr"):
    return optimizers.adam(
        lr, weight_decay=decay, coupling=coupling, rules=policy, b1=b1, b2=b2, eps=eps
    )


def sgd(momentum=0.9, nesterov=False, decay=0.01, coupling="l2", lr=LR):
    return optimizers.sgd(
        lr, momentum=momentum, nesterov=nesterov, weight_decay=decay, coupling=coupling,
        rules=rules.ALL,
    )  # fmt: skip


EQUAL = {
    "AdamW": ("AdamW", adamw()),
    "optax": ("AdamW", optax.adamw(LR, weight_decay=0.1)),
    "clipped": ("AdamW", optax.chain(optax.clip_by_global_norm(0.01), adamw())),
    "accumulated": ("AdamW", optax.MultiSteps(adamw(), 3).gradient_transformation()),
    "injected": ("AdamW", optimizers.inject_hyperparams(optimizers.adamw)(
        LR, weight_decay=0.1, coupling="lr", rules=rules.ALL)),
    "masters": ("AdamW", training.float32_masters(adamw())),
    "groups": ("AdamW", grouped(scale_by_adam(), LR, (Group(".*"),), weight_decay=0.1,
                                coupling="lr", rules=rules.ALL)),
    "partition": ("AdamW", optax.partition({"a": adamw(), "b": adamw()},
                                           {"conv": "a", "fc": "b"})),
    "AMSGrad": ("AdamW", optimizers.assemble(
        "amsgrad", scale_by_adam(amsgrad="raw"), LR, 0.1, "lr", rules.ALL)),
    "Adam": ("Adam", adamw(b1=0.8, b2=0.99, eps=1e-6, decay=0.01, coupling="l2")),
    "SGD": ("SGD", sgd()),
    "Nesterov": ("Nesterov", sgd(0.5, True, 0.0)),
    "plain SGD": ("plain SGD", sgd(0.0)),
    "plain SGDW": ("plain SGD", sgd(0.0, coupling="lr")),
}  # fmt: skip
OTHER = {
    "lr": ("AdamW", adamw(lr=0.05), "lr is 0.05.* and 0.05 in tx"),
    "beta1": ("AdamW", adamw(b1=0.8), "beta1 is 0.9 in torch's optimizer and 0.8 in tx"),
    "beta2": ("AdamW", adamw(b2=0.95), "beta2 is 0.999 in torch's optimizer and 0.95 in tx"),
    "eps": ("AdamW", adamw(eps=1e-6), "eps is 1e-08 in torch's optimizer and 1e-06 in tx"),
    "decay": ("AdamW", adamw(decay=0.01), r"is 0.1 \(decoupled\) in torch's .* and 0.01 \(d"),
    "l2": ("AdamW", adamw(coupling="l2"), r"decoupled\) in torch.* and 0.1 \(l2\) in tx"),
    "schedule": ("AdamW", adamw(coupling="schedule"), "torch's optimizer and .* in tx"),
    "exempt": ("AdamW", adamw(policy=rules.NO_BIAS_OR_NORM), r"and 0 in tx \(fc/bias\)"),
    "Adam as AdamW": ("Adam", adamw(b1=0.8, b2=0.99, eps=1e-6, decay=0.01), r"\(l2\) in torch"),
    "momentum": ("SGD", sgd(0.8), "momentum is 0.9 in torch's optimizer and 0.8 in tx"),
    "nesterov": ("SGD", sgd(0.9, True), "nesterov is 0 in torch's optimizer and 1 in tx"),
    "SGDW": ("SGD", sgd(coupling="lr"), r"\(l2\) in torch.* and 0.01 \(decoupled\) in tx"),
    "plain": ("plain SGD", sgd(0.0, decay=0.02), "weight_decay"),
}  # fmt: skip


def take(kind, tx, **changes):
    keys = {"AdamW": ADAM, "Adam": ADAM, "plain SGD": ()}.get(kind, ("momentum_buffer",))
    if "amsgrad" in changes:
        keys = (*ADAM, "max_exp_avg_sq")
    saved = state_dict(keys, step=STEP, **(TORCH[kind] | changes))
    step = None if keys and keys[0] == "exp_avg" else STEP
    if not keys:
        saved["state"] = {}
    return opt_state_from_torch(saved, tx, make_params(), NAMES, order=ORDER, step=step)


@pytest.mark.parametrize("name", EQUAL)
def test_equal_settings_are_not_warned_of(name):
    kind, tx = EQUAL[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        take(kind, tx, **({"amsgrad": True} if name == "AMSGrad" else {}))


@pytest.mark.parametrize("name", OTHER)
def test_what_differs_is_told(name):
    kind, tx, message = OTHER[name]
    with pytest.warns(SettingsWarning, match=message) as caught:
        take(kind, tx)
    assert len(caught) == 1
    assert str(caught[0].message).count("in torch's optimizer") == 1


def test_each_group_of_torch_is_compared_with_its_leaves():
    saved = state_dict(ADAM, **TORCH["AdamW"])
    group = saved["param_groups"][0]
    saved["param_groups"] = [group | {"params": [0, 1]},
                             group | {"params": [2], "weight_decay": 0.0, "lr": 0.01}]  # fmt: skip
    groups = (Group("fc/bias", learning_rate=0.01), Group(".*"))
    tx = grouped(scale_by_adam(), LR, groups, weight_decay=0.1, coupling="lr",
                 decay_follows="group", rules=rules.NO_BIAS_OR_NORM)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt_state_from_torch(saved, tx, make_params(), NAMES, order=ORDER)
    with pytest.warns(SettingsWarning, match=r"lr is 0.01 in torch.* and .* in tx \(fc/bias\)"):
        opt_state_from_torch(saved, adamw(policy=rules.NO_BIAS_OR_NORM), make_params(), NAMES,
                             order=ORDER)  # fmt: skip


def by_name(saved):
    """As FSDP and torch.distributed.checkpoint name parameters."""
    names = dict(enumerate(ORDER))
    state = {names[i]: entry for i, entry in saved["state"].items()}
    groups = [g | {"params": [names[i] for i in g["params"]]} for g in saved["param_groups"]]
    return {"state": state, "param_groups": groups}


def flat(saved):
    """As get_optimizer_state_dict with flatten_optimizer_state_dict=True."""
    named = by_name(saved)
    state = {f"state.{n}.{k}": x for n, entry in named["state"].items() for k, x in entry.items()}
    groups = {
        f"param_groups.{name}.{key}": value
        for group in named["param_groups"] for name in group["params"]
        for key, value in group.items() if key != "params"
    }  # fmt: skip
    return state | groups


def numbered(numbers):
    def change(saved):
        state = {numbers[i]: entry for i, entry in saved["state"].items()}
        groups = [g | {"params": [numbers[i] for i in g["params"]]} for g in saved["param_groups"]]
        return {"state": state, "param_groups": groups}

    return change


FORMS = {
    "names": (by_name, False),
    "flattened": (flat, False),
    "holes": (numbered([0, 3, 7]), True),
    "ids of torch < 1.6": (numbered([140471, 94, 3320]), True),
    "strings": (numbered(["0", "1", "2"]), True),
    "strings with holes": (numbered(["4", "2", "9"]), True),
}


@pytest.mark.parametrize("through_file", [False, True], ids=["", "file"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_state_gives_the_same(form, through_file, tmp_path):
    change, needs_order = FORMS[form]
    saved = change(state_dict(ADAM, **TORCH["AdamW"]))
    if through_file:
        pytest.importorskip("safetensors")
        save_state_dict(saved, tmp_path / "optimizer.safetensors")
        saved = load_state_dict(tmp_path / "optimizer.safetensors")
    order = ORDER if needs_order else None
    state = opt_state_from_torch(saved, adamw(), make_params(), NAMES, order=order)
    expected = opt_state_from_torch(state_dict(ADAM), adamw(), make_params(), NAMES, order=ORDER)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)
    if needs_order:
        with pytest.raises(ValueError, match=r"order=\["):
            opt_state_from_torch(saved, adamw(), make_params(), NAMES)
    else:
        with pytest.raises(ValueError, match="leave order out"):
            opt_state_from_torch(saved, adamw(), make_params(), NAMES, order=ORDER[::-1])


def test_state_of_a_parameter_that_no_group_has_is_named():
    saved = state_dict(ADAM)
    saved["state"][8] = saved["state"][0]
    with pytest.raises(ValueError, match="parameter 8, and no param_group"):
        opt_state_from_torch(saved, adamw(), make_params(), NAMES, order=ORDER)


WRAPPERS = {
    "float32_masters": training.float32_masters,
    "kahan": training.kahan,
    "stochastic_rounding": training.stochastic_rounding,
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("given", [True, False])
def test_16_bit_weights_go_on_from_torchs_float32_ones(name, given):
    weights = tensors(0)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_params())
    tx = WRAPPERS[name](adamw())
    state = opt_state_from_torch(
        state_dict(ADAM, **TORCH["AdamW"]), tx, params, NAMES, order=ORDER,
        weights=weights if given else None,
    )  # fmt: skip
    fresh = tx.init(params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
        lambda x: (x.shape, x.dtype), fresh
    )
    np.testing.assert_array_equal(
        at(moments(state.inner, "mu"), "fc.weight"), tensors(1)["fc.weight"].T
    )
    rounded = at(params, "fc.weight").astype(np.float32)
    exact = weights["fc.weight"].T if given else rounded
    if name == "float32_masters":
        np.testing.assert_array_equal(at(state.memory, "fc.weight"), exact)
    elif name == "kahan":
        rest = at(state.memory, "fc.weight").astype(np.float32)
        np.testing.assert_allclose(rounded + rest, exact, rtol=2**-16)
    else:
        assert not jax.tree.leaves(state.memory)


def test_torchs_advice_to_run_the_code_is_not_passed_on(monkeypatch, tmp_path):
    class Torch:
        def load(self, *_, **__):
            raise pickle.UnpicklingError(
                "Weights only load failed. Re-running `torch.load` with `weights_only` set to "
                "`False` will likely succeed. Unsupported global: GLOBAL io.open was not allowed."
            )

    monkeypatch.setitem(__import__("sys").modules, "torch", Torch())
    with pytest.raises(pickle.UnpicklingError, match="holds an object of io.open") as error:
        load_tensors(tmp_path / "model.pt")
    assert "weights_only" not in str(error.value)
    assert "safetensors.torch.save_file" in str(error.value)


def test_a_folder_of_torchs_distributed_checkpoints_is_named(tmp_path):
    (tmp_path / ".metadata").touch()
    with pytest.raises(ValueError, match="dcp_to_torch_save"):
        load_tensors(tmp_path)


def test_settings_as_json_will_do():
    saved = json.loads(json.dumps({"param_groups": [{**TORCH["AdamW"], "params": [0, 1, 2]}]}))
    saved = state_dict(ADAM, STEP) | saved
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt_state_from_torch(saved, adamw(), make_params(), NAMES, order=ORDER)
