"""Torch's optimizer state into Optax's, on made-up state dicts: no torch needed."""

import subprocess
import sys
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wdlab import optimizers, rules, schedules
from wdlab.from_torch import files as torch_files
from wdlab.from_torch import opt_state_from_torch, params_from_torch
from wdlab.from_torch.names import CONV2D, LINEAR, Leaf, as_numpy
from wdlab.groups import Group, grouped
from wdlab.optimizers import adafactor
from wdlab.preconditioners import scale_by_adam

LR = schedules.warmup_cosine(0.1, warmup_steps=5, decay_steps=200)
SHAPES = {"conv.weight": (4, 3, 2, 2), "fc.weight": (5, 4), "fc.bias": (5,)}
NAMES = {
    "conv.weight": Leaf("conv/kernel", axes=CONV2D),
    "fc.weight": Leaf("fc/kernel", axes=LINEAR),
    "fc.bias": "fc/bias",
}
AXES = {"conv.weight": CONV2D, "fc.weight": LINEAR, "fc.bias": (0,)}
ORDER = list(SHAPES)


def tensors(seed):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def make_params():
    like = {
        "conv": {"kernel": jnp.zeros((2, 2, 3, 4))},
        "fc": {"kernel": jnp.zeros((4, 5)), "bias": jnp.zeros(5)},
    }
    return params_from_torch(tensors(0), like, NAMES)


def state_dict(keys, step=100, **group):
    buffers = {key: tensors(i + 1) for i, key in enumerate(keys)}
    state = {
        i: {"step": np.float32(step)} | {key: buffers[key][name] for key in keys}
        for i, name in enumerate(ORDER)
    }
    if keys == ("momentum_buffer",):
        state = {i: {k: v for k, v in entry.items() if k != "step"} for i, entry in state.items()}
    return {"state": state, "param_groups": [{"lr": 0.1, "params": [0, 1, 2], **group}]}


ADAM = ("exp_avg", "exp_avg_sq")
ADAMW = optimizers.adamw(LR, weight_decay=0.1, coupling="lr", rules=rules.ALL)


def at(tree, name):
    leaf = NAMES[name]
    outer, inner = (leaf if isinstance(leaf, str) else leaf.path).split("/")
    return np.asarray(tree[outer][inner])


def moments(state, field):
    """The first tree of that name in a state."""
    if field in getattr(state, "_fields", ()):
        return getattr(state, field)
    found = [moments(part, field) for part in state] if isinstance(state, tuple) else []
    return next((tree for tree in found if tree is not None), None)


def test_weights_move_with_their_axes():
    params = make_params()
    for name, tensor in tensors(0).items():
        np.testing.assert_array_equal(at(params, name), tensor.transpose(AXES[name]))


def test_weights_and_state_are_copies_because_torch_steps_in_place():
    memory = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    saved = state_dict(ADAM)
    for i, name in enumerate(ORDER):
        saved["state"][i]["exp_avg"] = memory[name]
    like = jax.tree.map(jnp.zeros_like, make_params())
    params = params_from_torch(memory, like, NAMES)
    state = opt_state_from_torch(saved, ADAMW, params, NAMES, order=ORDER)
    for array in memory.values():
        array += 1.0
    for leaf in jax.tree.leaves((params, state[0].mu)):
        assert not leaf.any()


WRAPPED = {
    "adamw": ADAMW,
    "optax.adamw": optax.adamw(LR),
    "clipped": optax.chain(optax.clip_by_global_norm(1.0), ADAMW),
    "grouped": grouped(scale_by_adam(), LR, (Group("fc/.*", learning_rate_scale=0.5), Group(".*"))),
    "injected": optimizers.inject_hyperparams(optimizers.adamw)(
        LR, weight_decay=0.1, coupling="lr", rules=rules.ALL
    ),
    "MultiSteps": optax.MultiSteps(ADAMW, 2).gradient_transformation(),
    "l2": optimizers.adam(LR, weight_decay=0.1, coupling="l2", rules=rules.ALL),
}


@pytest.mark.parametrize("tx", WRAPPED.values(), ids=WRAPPED.keys())
def test_adams_moments_and_every_count_go_over(tx):
    params = make_params()
    fresh = tx.init(params)
    state = opt_state_from_torch(state_dict(ADAM), tx, params, NAMES, order=ORDER)
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    inner = state.inner_opt_state if hasattr(state, "inner_opt_state") else state
    inner = inner.inner_state if hasattr(inner, "inner_state") else inner
    for i, field in enumerate(("mu", "nu")):
        for name, tensor in tensors(i + 1).items():
            got = at(moments(inner, field), name)
            np.testing.assert_array_equal(got, tensor.transpose(AXES[name]))
    counts = [
        int(leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]
        if str(path[-1]) == ".count"
    ]
    assert counts
    assert set(counts) == {100}


def test_amsgrad_goes_to_the_raw_maximum_alone():
    saved, params = state_dict((*ADAM, "max_exp_avg_sq")), make_params()
    state = opt_state_from_torch(saved, scale_by_adam(amsgrad="raw"), params, NAMES, order=ORDER)
    np.testing.assert_array_equal(state.nu_max["fc"]["bias"], tensors(3)["fc.bias"])
    with pytest.raises(ValueError, match="corrected"):
        opt_state_from_torch(saved, optax.amsgrad(0.1), params, NAMES, order=ORDER)
    with pytest.raises(ValueError, match="'max_exp_avg_sq'.*no part of tx takes it"):
        opt_state_from_torch(saved, ADAMW, params, NAMES, order=ORDER)


def test_sgds_momentum_needs_the_step():
    tx = optimizers.sgd(LR, momentum=0.9, weight_decay=0.1, coupling="l2", rules=rules.ALL)
    saved, params = state_dict(("momentum_buffer",)), make_params()
    state = opt_state_from_torch(saved, tx, params, NAMES, order=ORDER, step=70)
    trace = moments(state, "trace")
    np.testing.assert_array_equal(at(trace, "fc.weight"), tensors(1)["fc.weight"].T)
    assert {int(x) for x in jax.tree.leaves(state) if x.ndim == 0} == {70}
    with pytest.raises(ValueError, match=r"no step count.*step="):
        opt_state_from_torch(saved, tx, params, NAMES, order=ORDER)


MUON, REST = ORDER[1:2], [ORDER[0], ORDER[2]]
HIDDEN = (rules.Rule("fc/kernel"), rules.Rule(".*", 0.0))


def test_muon_and_adamw_side_by_side_are_one_state():
    both = [_only(state_dict(("momentum_buffer",)), 1, ns_steps=5), _only(state_dict(ADAM), 0, 2)]
    tx, params = optimizers.muon(LR, hidden=HIDDEN), make_params()
    state = opt_state_from_torch(both, tx, params, NAMES, order=[MUON, REST], step=7)
    parts = state.inner_states
    momentum, mean = (moments(parts[name].inner_state, "mu") for name in ("muon", "adamw"))
    assert [p for p, _ in rules.leaves_with_paths(momentum)] == ["fc/kernel"]
    np.testing.assert_array_equal(at(momentum, "fc.weight"), tensors(1)["fc.weight"].T)
    np.testing.assert_array_equal(at(mean, "fc.bias"), tensors(1)["fc.bias"])
    assert {int(x) for x in jax.tree.leaves(state) if x.ndim == 0} == {7}


@pytest.mark.parametrize(
    ("order", "message"),
    [(ORDER, r"a list of names for each of the 2.*muon_names"), ([MUON, MUON * 2], "2 names")],
)
def test_several_state_dicts_have_an_order_each(order, message):
    both = [_only(state_dict(("momentum_buffer",)), 1, ns_steps=5), _only(state_dict(ADAM), 0, 2)]
    tx = optimizers.muon(LR, hidden=HIDDEN)
    with pytest.raises(ValueError, match=message):
        opt_state_from_torch(both, tx, make_params(), NAMES, order=order, step=7)


def _only(saved, *kept, **settings):
    state = {i: dict(saved["state"][key]) for i, key in enumerate(kept)}
    for entry in state.values():
        entry.pop("step", None)
    return {"state": state, "param_groups": [{"params": list(range(len(kept))), **settings}]}


def adafactor_state(squares):
    state = {}
    for i, name in enumerate(ORDER):
        square = squares[name]
        entry = {"variance": square}
        if square.ndim > 1:
            means = square.mean(-1, keepdims=True), square.mean(-2, keepdims=True)
            entry = {"row_var": means[0], "col_var": means[1]}
        state[i] = {"step": np.float32(3)} | entry
    return {"state": state, "param_groups": [{"params": [0, 1, 2]}]}


@pytest.mark.parametrize("fc", [Leaf("fc/kernel", axes=LINEAR), Leaf("fc/kernel")], ids=["T", ""])
@pytest.mark.parametrize("square_shape", [False, True])
def test_adafactors_rows_and_columns_follow_the_axes(fc, square_shape):
    """The state is what averaging the same squares here, in this layout, gives."""
    squares = {name: x**2 for name, x in tensors(1).items()}
    if square_shape:
        squares["fc.weight"] = squares["fc.weight"][:4]
    names = {"conv.weight": "conv/kernel", "fc.weight": fc, "fc.bias": "fc/bias"}
    like = {
        "conv": {"kernel": jnp.zeros((4, 3, 2, 2))},
        "fc": {"kernel": jnp.zeros(squares["fc.weight"].shape), "bias": jnp.zeros(5)},
    }
    if fc.axes:
        like["fc"]["kernel"] = like["fc"]["kernel"].T
    params = params_from_torch(squares, like, names)
    tx = adafactor(0.1, axes="last", min_dim_size_to_factor=1, epsilon="clamped", eps1=None)
    state = opt_state_from_torch(adafactor_state(squares), tx, params, names, order=ORDER)
    _, ours = jax.jit(tx.update)(jax.tree.map(jnp.sqrt, params), tx.init(params), params)
    for field in ("v_row", "v_col", "v"):  # The first step's averages are the squares' own.
        for a, b in zip(*(jax.tree.leaves(moments(s, field)) for s in (state, ours)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_adafactor_refuses_a_convolution_in_flaxs_layout():
    squares = {name: x**2 for name, x in tensors(1).items()}
    tx = adafactor(0.1, axes="last", min_dim_size_to_factor=1, epsilon="clamped", eps1=None)
    with pytest.raises(ValueError, match=r"'conv/kernel'.*last two axes of torch's layout"):
        opt_state_from_torch(adafactor_state(squares), tx, make_params(), NAMES, order=ORDER)


def test_a_parameter_frozen_here_needs_no_moments_and_one_frozen_there_is_frozen_here():
    groups = (Group("conv/.*", frozen=True), Group(".*"))
    tx, params = grouped(scale_by_adam(), LR, groups), make_params()
    with pytest.raises(ValueError, match=r"names\['conv.weight'\] = None"):
        opt_state_from_torch(state_dict(ADAM), tx, params, NAMES, order=ORDER)
    state = opt_state_from_torch(
        state_dict(ADAM), tx, params, NAMES | {"conv.weight": None}, order=ORDER
    )
    assert isinstance(state[0].mu["conv"]["kernel"], optax.MaskedNode)
    partial = state_dict(ADAM)
    partial["state"].pop(0)
    partial["param_groups"] = [{"params": [0, 1]}]
    partial["state"] = {i - 1: entry for i, entry in partial["state"].items()}
    state = opt_state_from_torch(partial, tx, params, NAMES, order=ORDER[1:])
    np.testing.assert_array_equal(state[0].mu["fc"]["bias"], tensors(1)["fc.bias"])
    with pytest.raises(ValueError, match=r"no parameter of torch's optimizer goes there.*frozen"):
        opt_state_from_torch(partial, ADAMW, params, NAMES, order=ORDER[1:])


def test_saved_names_make_order_superfluous_and_string_keys_will_do():
    saved = state_dict(ADAM, param_names=ORDER)
    saved["state"] = OrderedDict((str(i), entry) for i, entry in saved["state"].items())
    state = opt_state_from_torch(saved, ADAMW, make_params(), NAMES)
    assert int(state[0].count) == 100


def test_nnx_state():
    model = nnx.Linear(4, 5, rngs=nnx.Rngs(0))
    params = nnx.state(model, nnx.Param)
    names = {"weight": Leaf("kernel", axes=LINEAR), "bias": "bias"}
    found = {"weight": np.ones((5, 4)), "bias": np.ones(5)}
    params = params_from_torch(found, params, names)
    saved = {
        "state": {i: {"step": 1.0, "exp_avg": x, "exp_avg_sq": x} for i, x in
                  enumerate(found.values())},
        "param_groups": [{"params": [0, 1]}],
    }  # fmt: skip
    state = opt_state_from_torch(saved, optax.adam(0.1), params, names, order=list(found))
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = optax.adam(0.1).update(grads, state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)


def test_attention_kernels_are_cut_into_heads():
    weight = np.arange(64.0).reshape(8, 8)  # (out, in)
    like = {"query": jax.ShapeDtypeStruct((8, 2, 4), jnp.float32)}
    names = {"q.weight": Leaf("query", axes=LINEAR, reshape=True)}
    got = params_from_torch({"q.weight": weight}, like, names)["query"]
    x = np.ones(8) / 8
    np.testing.assert_allclose(np.einsum("i,ihd->hd", x, got).ravel(), weight @ x, rtol=1e-6)


def without(mapping, key):
    return {k: v for k, v in mapping.items() if k != key}


def opt(names=NAMES, saved=None, tx=ADAMW, order=ORDER, **kwargs):
    saved = state_dict(ADAM) if saved is None else saved
    return lambda: opt_state_from_torch(saved, tx, make_params(), names, order=order, **kwargs)


def weights(names, found=None):
    return lambda: params_from_torch(found or tensors(0), make_params(), names)


def two_steps():
    saved = state_dict(ADAM)
    saved["state"][2]["step"] = np.float32(99)
    return saved


def no_state():
    saved = state_dict(ADAM)
    del saved["state"][2]
    return saved


ERRORS = {
    "misspelt torch name": (
        weights(without(NAMES, "fc.weight") | {"fc.wieght": Leaf("fc/kernel", axes=LINEAR)}),
        "torch has no 'fc.wieght'; the nearest is 'fc.weight'",
    ),
    "misspelt path": (weights(NAMES | {"fc.bias": "fc/bais"}), "nearest is 'fc/bias'"),
    "missing path": (weights(without(NAMES, "fc.bias")), "nearest free torch name is 'fc.bias'"),
    "spare tensor": (
        weights(NAMES, tensors(0) | {"fc.mask": np.ones(2)}), r"names\['fc.mask'\] = None",
    ),
    "one path twice": (weights(NAMES | {"fc.weight": "fc/bias"}), "both go to 'fc/bias'|no param"),
    "no transpose": (weights(NAMES | {"fc.weight": "fc/kernel"}), r"axes=\(1, 0\)"),
    "wrong rank": (weights(NAMES | {"fc.bias": Leaf("fc/bias", axes=(1, 0))}), "permutes 2 axes"),
    "no permutation": (lambda: Leaf("a", axes=(0, 2)), "permutation"),
    "no order": (opt(order=None), r"order=\[name for name, _ in model.named_parameters\(\)\]"),
    "short order": (opt(order=ORDER[:2]), "2 names .* 3 parameters"),
    "other order": (opt(saved=state_dict(ADAM, param_names=ORDER[::-1])), "leave order out"),
    "maximize": (opt(saved=state_dict(ADAM, maximize=True)), "maximize"),
    "dampening": (opt(saved=state_dict(ADAM, dampening=0.1)), "dampening"),
    "two counts": (opt(saved=two_steps()), "99 updates of 'fc.bias' and 100 of"),
    "other step": (opt(step=7), "step=7.*says 100"),
    "another optimizer": (opt(tx=optimizers.sgd(0.1, momentum=0.9)), "'momentum_buffer'"),
    "too little optimizer": (opt(tx=optax.sgd(0.1)), "no part of tx takes it"),
    "no state": (opt(saved=no_state()), r"no state at all.*Group\('fc/bias', frozen=True\)"),
    "a reference": (
        opt(tx=optax.chain(ADAMW, optax.ema(0.9))), "no counterpart",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "match"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_say_what_to_write(wrong, match):
    with pytest.raises(ValueError, match=match):
        wrong()


def test_types():
    with pytest.raises(TypeError, match="'model'.*pass the optimizer's entry"):
        opt(saved={"model": {}, "optimizer": {}})()
    with pytest.raises(TypeError, match=r"names\['fc.bias'\]"):
        weights(NAMES | {"fc.bias": 3})()


def test_bfloat16_tensors_are_read_without_torch_in_this_module():
    class Tensor:
        dtype = "torch.bfloat16"

        def detach(self):
            return self

        cpu = detach

        def float(self):
            return np.ones(2, np.float32)

    assert as_numpy(Tensor()).dtype == np.float32


def test_interop_imports_neither_torch_nor_safetensors():
    code = (
        "import sys, wdlab.from_torch;sys.exit(bool({'torch', 'safetensors'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install torch.*safetensors"):
        torch_files.load_tensors(tmp_path / "model.pt")
