"""Parameter groups against torch's ``param_groups``, and a run with groups that goes on in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from wdlab import rules, schedules  # noqa: E402
from wdlab.from_torch import opt_state_from_torch, params_from_torch  # noqa: E402
from wdlab.groups import Group, grouped  # noqa: E402
from wdlab.preconditioners import scale_by_adam  # noqa: E402

pytestmark = pytest.mark.oracle
STEPS, STOP = 100, 50
SHAPES = {"head": (4, 3), "lora": (4, 2), "bias": (3,), "frozen": (2, 2), "body": (2, 3, 2, 2)}
BASE = schedules.warmup_cosine(0.05, warmup_steps=5, decay_steps=STEPS, end=0.01)
OWN = schedules.warmup_linear(0.2, warmup_steps=3, decay_steps=STEPS, end=0.02)
DECAY = 0.1
# Torch's groups: parameters, rate of a step, decay.
TORCH_GROUPS = (
    (("head", "frozen"), lambda t: 0.5 * float(BASE(t)), 3.0 * DECAY),
    (("lora",), lambda t: float(OWN(t)), 0.5 * DECAY),
    (("bias",), lambda t: float(BASE(t)), 0.0),
    (("body",), lambda t: float(BASE(t)), DECAY),
)
GROUPS = (
    Group("frozen", frozen=True),
    Group("head", learning_rate_scale=0.5, decay_scale=3.0),
    Group("lora", learning_rate=OWN, decay_scale=0.5),
    Group("bias", decay_scale=0.0),
    Group(".*"),
)
OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, {}, scale_by_adam(), "lr"),
    "Adam": (torch.optim.Adam, {}, scale_by_adam(), "l2"),
    "SGD": (torch.optim.SGD, {"momentum": 0.9}, optax.trace(0.9), "l2"),
}


def start_and_gradients():
    rng = np.random.default_rng(0)
    start = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    draw = lambda shape: rng.normal(size=shape) * (rng.uniform(size=shape) > 0.1)  # noqa: E731
    return start, [{name: draw(shape) for name, shape in SHAPES.items()} for _ in range(STEPS)]


def run_torch(make, arguments, start, grads):
    """Returns weights and optimizer state at STOP, and the weights at the end."""
    params = {name: torch.nn.Parameter(torch.from_numpy(x.copy())) for name, x in start.items()}
    params["frozen"].requires_grad_(requires_grad=False)
    groups = [
        {"params": [params[name] for name in names], "weight_decay": decay}
        for names, _, decay in TORCH_GROUPS
    ]
    optimizer = make(groups, lr=1.0, **arguments)
    for step, tree in enumerate(grads):
        if step == STOP:
            middle = {name: p.detach().numpy().copy() for name, p in params.items()}
            state = optimizer.state_dict()
            state = torch.utils._pytree.tree_map(
                lambda x: x.clone() if torch.is_tensor(x) else x, state
            )
        for group, (_, rate, _) in zip(optimizer.param_groups, TORCH_GROUPS, strict=True):
            group["lr"] = rate(step)
        for name, p in params.items():
            p.grad = torch.from_numpy(tree[name]) if p.requires_grad else None
        optimizer.step()
    return middle, state, {name: p.detach().numpy() for name, p in params.items()}


@pytest.mark.parametrize("resumed", [False, True], ids=["from the start", "from the middle"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_are_torchs(x64, name, resumed):
    make, arguments, direction, coupling = OPTIMIZERS[name]
    start, grads = start_and_gradients()
    middle, saved, theirs = run_torch(make, arguments, start, grads)
    tx = grouped(
        direction, BASE, GROUPS, weight_decay=DECAY, coupling=coupling, decay_follows="group",
        rules=rules.ALL,
    )  # fmt: skip
    params = jax.tree.map(jnp.asarray, start)
    state = tx.init(params)
    if resumed:
        names = {name: name for name in SHAPES}
        params = params_from_torch(middle, params, names)
        order = [name for names, _, _ in TORCH_GROUPS for name in names]
        step = STOP if name == "SGD" else None
        state = opt_state_from_torch(saved, tx, params, names, order=order, step=step)
    update = jax.jit(tx.update)
    for g in grads[STOP if resumed else 0 :]:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    assert np.asarray(params["frozen"]).tobytes() == start["frozen"].tobytes()
    for leaf, reference in theirs.items():
        error = np.abs(np.asarray(params[leaf]) - reference).max() / np.abs(reference).max()
        assert error <= 1e-10, (leaf, error)
