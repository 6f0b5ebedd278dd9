"""A run of torch.optim, stopped at step 100 of 200, goes on in JAX and ends where torch ends."""

import pickle
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from wdlab import conventions, optimizers, rules, schedules  # noqa: E402
from wdlab.from_torch import files as torch_files  # noqa: E402
from wdlab.from_torch import opt_state_from_torch, params_from_torch  # noqa: E402
from wdlab.from_torch.names import CONV2D, LINEAR, Leaf  # noqa: E402
from wdlab.preconditioners import scale_by_adam  # noqa: E402

pytestmark = pytest.mark.oracle
STOP, STEPS = 100, 200
LR = schedules.warmup_cosine(5e-3, warmup_steps=20, decay_steps=STEPS, end=1e-4)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3)
        self.hidden = torch.nn.Linear(16, 16)  # Square: rows and columns can be taken for another.
        self.out = torch.nn.Linear(16, 3)

    def forward(self, x):
        x = torch.tanh(self.conv(x)).mean(3).flatten(1)
        return self.out(torch.tanh(self.hidden(x)))


def forward(params, x, conv_layout):
    layout = ("NCHW", conv_layout, "NCHW")
    kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
    x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout)
    x = jnp.tanh(x + bias[:, None, None]).mean(3).reshape(x.shape[0], -1)
    for name in ("hidden", "out"):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        x = jnp.tanh(x) if name == "hidden" else x
    return x


NAMES = {
    "conv.weight": Leaf("conv/kernel", axes=CONV2D),
    "conv.bias": "conv/bias",
    "hidden.weight": Leaf("hidden/kernel", axes=LINEAR),
    "hidden.bias": "hidden/bias",
    "out.weight": Leaf("out/kernel", axes=LINEAR),
    "out.bias": "out/bias",
}
L2 = {"weight_decay": 0.01, "coupling": "l2", "rules": rules.ALL}
CASES = {
    "AdamW": (
        lambda p: torch.optim.AdamW(p, weight_decay=0.1),
        optimizers.adamw(LR, weight_decay=0.1, coupling="lr", rules=rules.ALL),
    ),
    "Adam": (lambda p: torch.optim.Adam(p, weight_decay=0.01), optimizers.adam(LR, **L2)),
    "Adam, AMSGrad": (
        lambda p: torch.optim.Adam(p, weight_decay=0.01, amsgrad=True),
        optimizers.assemble(
            "amsgrad", scale_by_adam(amsgrad="raw"), LR, 0.01, "l2", rules.ALL
        ),
    ),
    "SGD": (
        lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.01),
        optimizers.sgd(LR, momentum=0.9, **L2),
    ),
    "SGD, Nesterov": (
        lambda p: torch.optim.SGD(p, momentum=0.9, weight_decay=0.01, nesterov=True),
        optimizers.sgd(LR, momentum=0.9, nesterov=True, **L2),
    ),
    "Adafactor": (
        lambda p: torch.optim.Adafactor(p, weight_decay=0.1),
        conventions.build("torch.Adafactor", LR, weight_decay=0.1),
    ),
}  # fmt: skip


def batches(dtype):
    rng = np.random.default_rng(0)
    teacher = rng.normal(size=(48, 3))
    for _ in range(STEPS):
        x = rng.normal(size=(16, 2, 6, 4))
        y = np.tanh(x.reshape(16, -1) @ teacher)
        yield x.astype(dtype), y.astype(dtype)


def run_torch(make, dtype, named):
    """Returns the model and optimizer states at STOP, and the weights at the end."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Net().to(torch.float64 if dtype == np.float64 else torch.float32)
    optimizer = make(model.named_parameters() if named else model.parameters())
    for step, (x, y) in enumerate(batches(dtype)):
        if step == STOP:
            saved = pickle.loads(pickle.dumps((model.state_dict(), optimizer.state_dict())))
        for group in optimizer.param_groups:
            group["lr"] = float(LR(step))
        optimizer.zero_grad()
        ((model(torch.from_numpy(x)) - torch.from_numpy(y)) ** 2).mean().backward()
        optimizer.step()
    return saved, {name: p.detach().numpy() for name, p in model.named_parameters()}


def through_a_file(saved, kind, folder):
    weights, state = saved
    if kind == "safetensors":
        from safetensors.torch import save_file

        save_file(weights, folder / "model.safetensors")
        torch_files.save_state_dict(state, folder / "optimizer.safetensors")
    else:
        torch.save(weights, folder / "model.pt")
        torch.save(state, folder / "optimizer.pt")
    model, optimizer = (folder / f"{name}.{kind}" for name in ("model", "optimizer"))
    return torch_files.load_tensors(model), torch_files.load_state_dict(optimizer)


def go_on(tx, weights, state, names, order, dtype):
    layout = "OIHW" if isinstance(names["conv.weight"], str) else "HWIO"
    shapes = {}
    for name, target in names.items():
        leaf = Leaf(target) if isinstance(target, str) else target
        shape = np.shape(weights[name])
        shape = tuple(shape[a] for a in leaf.axes or range(len(shape)))
        outer, inner = leaf.path.split("/")
        shapes.setdefault(outer, {})[inner] = jax.ShapeDtypeStruct(shape, dtype)
    params = params_from_torch(weights, shapes, names)
    parts = state if isinstance(state, list) else [state]
    entries = [entry for part in parts for entry in part["state"].values()]
    step = STOP if any("momentum_buffer" in entry for entry in entries) else None
    opt_state = opt_state_from_torch(state, tx, params, names, order=order, step=step)

    @jax.jit
    def update(params, opt_state, x, y):
        loss = lambda p: jnp.mean((forward(p, x, layout) - y) ** 2)  # noqa: E731
        updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    for step, (x, y) in enumerate(batches(dtype)):
        if step >= STOP:
            params, opt_state = update(params, opt_state, x, y)
    return params


def largest_error(params, names, reference):
    """Returns the largest deviation of a weight, and the same relative to its leaf's largest."""
    absolute, relative = 0.0, 0.0
    for name, target in names.items():
        leaf = Leaf(target) if isinstance(target, str) else target
        outer, inner = leaf.path.split("/")
        theirs = reference[name].transpose(leaf.axes or range(reference[name].ndim))
        deviation = np.abs(np.asarray(params[outer][inner]) - theirs).max()
        absolute = max(absolute, deviation)
        relative = max(relative, deviation / np.abs(theirs).max())
    return absolute, relative


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [(np.float64, "safetensors"), (np.float64, "pt"), (np.float32, "pt")],
    ids=["float64, safetensors", "float64, pt", "float32, pt"],
)
@pytest.mark.parametrize("case", CASES)
def test_the_second_half_in_jax_ends_where_torch_ends(x64, tmp_path, case, dtype, kind):
    if kind == "safetensors":
        pytest.importorskip("safetensors")
    make, tx = CASES[case]
    # Torch's Adafactor factors a convolution over its window: keep that leaf in torch's layout.
    names = NAMES | ({"conv.weight": "conv/kernel"} if case == "Adafactor" else {})
    named = kind == "pt"
    saved, reference = run_torch(make, dtype, named)
    weights, state = through_a_file(saved, kind, tmp_path)
    order = None if named else list(reference)
    params = go_on(tx, weights, state, names, order, dtype)
    absolute, relative = largest_error(params, names, reference)
    assert absolute <= 1e-6
    if dtype == np.float64:
        assert relative <= 1e-10


@pytest.mark.parametrize("case", ["AdamW", "SGD", "Adafactor"])
def test_without_the_state_the_run_ends_elsewhere(x64, case):
    """The bound above is sharp: fresh moments at step 100 miss it by orders of magnitude."""
    make, tx = CASES[case]
    names = NAMES | ({"conv.weight": "conv/kernel"} if case == "Adafactor" else {})
    (weights, state), reference = run_torch(make, np.float64, named=True)
    for entry in state["state"].values():
        for key, buffer in entry.items():
            if key != "step":
                buffer.zero_()
    params = go_on(tx, weights, state, names, None, np.float64)
    assert largest_error(params, names, reference)[0] > 1e-4


class SideBySide:
    """torch's Muon over the matrices and AdamW over the rest, as their users step them."""

    def __init__(self, named):
        named = dict(named)
        matrices = {name: p for name, p in named.items() if p.ndim == 2}
        rest = {name: p for name, p in named.items() if p.ndim != 2}
        muon = torch.optim.Muon(matrices.items(), weight_decay=0.1)
        self.parts = [muon, torch.optim.AdamW(rest.items(), weight_decay=0.1)]
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def zero_grad(self):
        for part in self.parts:
            part.zero_grad()

    def step(self):
        for part in self.parts:
            part.step()

    def state_dict(self):
        return [part.state_dict() for part in self.parts]


def test_muon_and_adamw_go_on_together():
    """In float32; torch's iteration is in bfloat16, which bounds how near the two can be."""
    (weights, states), reference = run_torch(SideBySide, np.float32, named=True)
    tx = optimizers.muon(
        LR, weight_decay=0.1, coupling="lr", rules=rules.ALL, scaling="original", adam_b2=0.999,
        hidden=(rules.Rule("(hidden|out)/kernel"), rules.Rule(".*", 0.0)),
    )  # fmt: skip
    error = largest_error(go_on(tx, weights, states, NAMES, None, np.float32), NAMES, reference)[0]
    for entry in states[0]["state"].values():
        entry["momentum_buffer"].zero_()
    fresh = largest_error(go_on(tx, weights, states, NAMES, None, np.float32), NAMES, reference)[0]
    assert error < 0.1 * fresh


@pytest.mark.parametrize("flat", [False, True])
def test_a_state_by_name_of_torchs_distributed_checkpoints(flat):
    """The same as by number, and torch's settings are those of the optimizer here."""
    from torch.distributed.checkpoint import state_dict as distributed

    model = Net()
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=5e-3, weight_decay=0.1)
    for x, _ in list(batches(np.float32))[:3]:
        optimizer.zero_grad()
        model(torch.from_numpy(x)).square().mean().backward()
        optimizer.step()
    options = distributed.StateDictOptions(flatten_optimizer_state_dict=flat)
    named = distributed.get_optimizer_state_dict(model, optimizer, options=options)
    weights = model.state_dict()
    shapes = {"conv": {"kernel": (3, 3, 2, 4), "bias": (4,)},
              "hidden": {"kernel": (16, 16), "bias": (16,)},
              "out": {"kernel": (16, 3), "bias": (3,)}}  # fmt: skip
    like = jax.tree.map(lambda s: jnp.zeros(s), shapes, is_leaf=lambda s: isinstance(s, tuple))
    params = params_from_torch(weights, like, NAMES)
    tx = optimizers.adamw(5e-3, weight_decay=0.1, coupling="lr")
    order = [n for n, p in model.named_parameters() if p.ndim > 1]
    order += [n for n, p in model.named_parameters() if p.ndim < 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = opt_state_from_torch(named, tx, params, NAMES)
        same = opt_state_from_torch(optimizer.state_dict(), tx, params, NAMES, order=order)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(same), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pickle_with_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "touched"), "w"))

    torch.save({"w": Evil()}, tmp_path / "model.pt")
    with pytest.raises(pickle.UnpicklingError, match="holds an object of .*open") as error:
        torch_files.load_tensors(tmp_path / "model.pt")
    assert "weights_only" not in str(error.value)
    assert not (tmp_path / "touched").exists()


def test_bfloat16_tensors_keep_their_values(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    tensor = torch.linspace(-2, 2, 7).to(torch.bfloat16)
    safetensors.save_file({"w": tensor}, tmp_path / "model.safetensors")
    torch.save({"w": tensor}, tmp_path / "model.pt")
    like = {"w": jax.ShapeDtypeStruct((7,), jnp.bfloat16)}
    for name in ("model.safetensors", "model.pt"):
        loaded = torch_files.load_tensors(tmp_path / name)
        params = params_from_torch(loaded, like, {"w": "w"})
        assert params["w"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(np.asarray(params["w"], np.float32), tensor.float().numpy())
