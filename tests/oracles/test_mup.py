"""muP's optimizers against the ``mup`` package with torch on the CPU, in float64."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")
mup = pytest.importorskip("mup")

from wdlab import conventions, rules, schedules  # noqa: E402
from wdlab.groups import widths  # noqa: E402

pytestmark = pytest.mark.oracle
STEPS = 60
BASE, DELTA, TARGET = 8, 12, 32
LR = schedules.warmup_cosine(0.02, warmup_steps=5, decay_steps=STEPS, end=0.002)
MAKERS = {
    "MuSGD": (lambda: mup.MuSGD, {"momentum": 0.9, "nesterov": True}),
    "MuAdam": (lambda: mup.MuAdam, {"betas": (0.5, 0.95), "eps": 1e-3}),
    "MuAdamW": (lambda: mup.MuAdamW, {"amsgrad": True}),
}
# Name, whether the decay is left unscaled: MuSGD cannot.
CASES = [("MuSGD", False)] + [(n, u) for n in ("MuAdam", "MuAdamW") for u in (False, True)]


def make_model(width, vocabulary=10):
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Embedding(vocabulary, width),
        torch.nn.Linear(width, 3 * width),
        torch.nn.LayerNorm(3 * width),
        torch.nn.Linear(3 * width, 6, bias=False),
        torch.nn.Linear(6, 16),  # Finite: scalar-like.
        torch.nn.Linear(16, width),
        torch.nn.Conv1d(width, 2 * width, 3),
        mup.MuReadout(2 * width, 4),
    )
    model.register_parameter("gain", torch.nn.Parameter(torch.ones(())))
    return model.double()


def set_shapes(model, use_delta):
    delta = make_model(DELTA) if use_delta else None
    return mup.set_base_shapes(model, make_model(BASE), delta=delta, do_assert=False)


def arrays(model):
    return {name: p.detach().numpy().copy() for name, p in model.named_parameters()}


def to_flax(name, x):
    """Torch's (out, in, ...) as Flax's (..., in, out); an Embedding is the same in both."""
    if x.ndim < 2 or name == "0.weight":
        return x
    return np.moveaxis(x, (0, 1), (-1, -2))


def gradients(params):
    rng = np.random.default_rng(1)
    draw = lambda shape: rng.normal(size=shape) * (rng.uniform(size=shape) > 0.1)  # noqa: E731
    return [{name: np.asarray(draw(p.shape)) for name, p in params.items()} for _ in range(STEPS)]


def run_torch(make, model, grads, arguments, decay_unscaled):
    accepts = "decoupled_wd" in inspect.signature(make).parameters
    if decay_unscaled and accepts:
        arguments = arguments | {"decoupled_wd": True}
    optimizer = make(list(model.parameters()), lr=1.0, **arguments)
    if decay_unscaled and not accepts:  # The release 1.0.0 lacks the argument: undo its scaling.
        for group in optimizer.param_groups:
            group["weight_decay"] = arguments.get("weight_decay", 0.0)
    factors = [group["lr"] for group in optimizer.param_groups]
    for step, tree in enumerate(grads):
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = factor * float(LR(step))
        for name, p in model.named_parameters():
            p.grad = torch.from_numpy(tree[name])
        optimizer.step()
    return arrays(model)


def run_wdlab(tx, params, grads):
    params, state = jax.tree.map(jnp.asarray, params), tx.init(params)

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def step(g, state, params):
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    for g in grads:
        params, state = step(g, state, params)
    return params


@pytest.mark.parametrize(("layout", "use_delta"), [("in_out", True), ("out_in", False)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(("name", "decay_unscaled"), CASES)
def test_sixty_steps(x64, name, weight_decay, decay_unscaled, layout, use_delta):
    torch.set_num_threads(1)
    theirs_of, extra = MAKERS[name]
    model = set_shapes(make_model(TARGET), use_delta)
    start, grads = arrays(model), gradients(arrays(model))
    theirs = run_torch(
        theirs_of(), model, grads, {"weight_decay": weight_decay, **extra}, decay_unscaled
    )

    def laid_out(tree):
        return {n: to_flax(n, x) for n, x in tree.items()} if layout == "in_out" else tree

    bases = [laid_out(arrays(make_model(width))) for width in (BASE, DELTA)]
    start, theirs = laid_out(start), laid_out(theirs)
    sizes = widths(bases[0], start, layout=layout, delta=bases[1] if use_delta else None)
    unscaled = {"decoupled_wd": True} if decay_unscaled else {}
    arguments = {"widths": sizes, "weight_decay": weight_decay, **extra, **unscaled}
    tx = conventions.build(f"mup.{name}", LR, rules=rules.ALL, **arguments)
    ours = run_wdlab(tx, start, [laid_out(g) for g in grads])
    for path, reference in theirs.items():
        error = np.abs(np.asarray(ours[path]) - reference).max() / np.abs(reference).max()
        assert error <= 1e-10, (path, error)


def test_multipliers_are_those_of_mup():
    model = set_shapes(make_model(TARGET, vocabulary=77), use_delta=True)
    found = widths(
        arrays(make_model(BASE)), arrays(model), layout="out_in", delta=arrays(make_model(DELTA))
    )
    theirs = dict(model.named_parameters())
    assert {w.kind for w in found} == {"matrix", "vector", "scalar"}
    for width in found:
        infshape = theirs[width.path].infshape
        assert ("scalar", "vector", "matrix")[infshape.ninf()] == width.kind
        assert infshape.width_mult() == width.width_multiplier
        if width.kind == "matrix":
            assert infshape.fanin_fanout_mult_ratio() == width.fan_ratio
