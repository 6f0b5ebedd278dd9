"""A run started in PyTorch goes on in JAX: weights and optimizer state, by name.

    tensors = torch_files.load_tensors("model.safetensors")
    saved = torch_files.load_state_dict("optimizer.pt")
    names = {"fc.weight": Leaf("fc/kernel", axes=LINEAR), "fc.bias": "fc/bias"}
    params = params_from_torch(tensors, params, names)
    tx = optimizers.adamw(schedule, weight_decay=0.1, coupling="lr", rules=rules.ALL)
    opt_state = opt_state_from_torch(saved, tx, params, names, order=["fc.weight", "fc.bias"])

The state takes over moments and step count. The hyper-parameters are those of ``tx``: give it what
the run had, or be warned. torch is not imported here; a tensor is anything that NumPy can read.
torch.optim.AdamW, Adam (AMSGrad too), SGD with momentum, Adafactor and Muon go over.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab.from_torch.compare import SettingsWarning, setting_differences
from wdlab.from_torch.fill import Filler
from wdlab.from_torch.names import NameMap, laid_out, resolve_names
from wdlab.from_torch.state import TorchState, read_state_dict, together
from wdlab.rules import leaves_with_paths

PyTree = Any


def params_from_torch(tensors: Mapping[str, Any], params: PyTree, names: NameMap) -> PyTree:
    r"""Puts torch's weights into a parameter tree: theta[path] = transpose(tensor, axes).

    Args:
      tensors: ``model.state_dict()`` or what :mod:`wdlab.from_torch.files` loads.
      params: Arrays or ``jax.ShapeDtypeStruct``; their shapes are checked, their dtypes kept.
      names: Torch name -> path, a :class:`Leaf` where axes move, or None to leave a tensor out.

    Raises:
      ValueError: If a name, a path or a shape has no counterpart.

    >>> params = {"fc": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
    >>> from wdlab.from_torch import LINEAR, Leaf
    >>> names = {"fc.weight": Leaf("fc/kernel", axes=LINEAR)}
    >>> params_from_torch({"fc.weight": np.ones((3, 2))}, params, names)["fc"]["kernel"].shape
    (2, 3)
    """
    leaves = leaves_with_paths(params)
    sources = resolve_names(names, list(tensors), [path for path, _ in leaves])
    arrays = [  # Surely copies, since torch's optimizers step in place.
        jnp.array(laid_out(sources[path], tensors[sources[path].name], like.shape), like.dtype)
        for path, like in leaves
    ]
    return jax.tree.unflatten(jax.tree.structure(params), arrays)


def opt_state_from_torch(
    state_dict: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    tx: optax.GradientTransformation,
    params: PyTree,
    names: NameMap,
    *,
    order: Sequence[Any] | None = None,
    step: int | None = None,
    weights: Mapping[str, Any] | None = None,
) -> PyTree:
    r"""Makes the state of ``tx`` as if it had made torch's steps: moments, and count = step.

    ``tx`` must be the same optimizer: ``optimizers.adamw(lr, coupling="lr")`` for AdamW, ``adam``
    with "l2" for Adam, ``sgd`` with "l2" for SGD, ``conventions.build("torch.Adafactor", lr)``,
    ``muon`` for Muon and AdamW side by side.
    Chains, groups and wrappers around it are filled alike. A torch scheduler's step is Optax's
    count: the lr of update t is ``schedule(t - 1)``. Where the
    saved lr, betas, eps, momentum or weight decay differ from those that ``tx`` steps with, a
    :class:`SettingsWarning` says so.

    Torch's Adafactor factors over the last two axes of torch's layout. A transposed matrix has rows
    and columns exchanged, which is done here; a convolution's are its 3 x 3 window, which no layout
    of Flax has last: keep such a leaf in torch's layout.

    Args:
      state_dict: ``optimizer.state_dict()``, or that of FSDP or ``torch.distributed.checkpoint``,
        which names its parameters; flattened or not. A list of them where several optimizers
        trained the model: ``[muon.state_dict(), adamw.state_dict()]``.
      tx: The optimizer to go on with.
      params: The parameters to go on with, from :func:`params_from_torch`.
      names: As there; None leaves a parameter out, e.g. one that is frozen here.
      order: Torch names in the order of the optimizer's parameters, all groups in turn:
        ``[name for name, _ in model.named_parameters()]``. Not needed where the optimizer was given
        named parameters (torch >= 2.6 then saves them). Of several optimizers a list of such lists.
      step: Number of updates made; required for SGD and Muon, whose state does not hold it.
      weights: Torch's weights, as for :func:`params_from_torch`: with them ``float32_masters`` and
        ``kahan`` go on from their float32 values; without, from the rounded parameters.

    Raises:
      ValueError: If a name, shape, buffer or step count is missing, left over or contradictory; if
        the run used ``maximize`` or ``dampening``, which ``tx`` does not have.

    >>> params = {"w": jnp.ones(2)}
    >>> saved = {"state": {0: {"momentum_buffer": np.full(2, 3.0)}},
    ...          "param_groups": [{"params": [0]}]}
    >>> state = opt_state_from_torch(saved, optax.trace(0.9), params, {"w": "w"}, order=["w"],
    ...                              step=100)
    >>> state.trace["w"].tolist()
    [3.0, 3.0]

    Source: torch 2.13.0, torch/optim/{adam,sgd,_adafactor,_muon}.py.
    """
    saved = _read(state_dict, order, step)
    shapes = {path: tuple(np.shape(leaf)) for path, leaf in leaves_with_paths(params)}
    # The optimizer may have had fewer parameters than the model, where some are frozen.
    held = {name: target for name, target in names.items() if name in saved.names}
    sources = resolve_names(held, saved.names, list(shapes), all_paths=False)
    exact = {
        path: laid_out(source, weights[source.name], shapes[path])
        for path, source in sources.items()
        if weights is not None
    }
    filler = Filler(saved, sources, shapes, exact)
    state = filler.fill(tx.init(params), "")
    filler.check_nothing_left()
    if differences := setting_differences(saved, sources, tx, params):
        warnings.warn(
            f"tx is set otherwise than the torch run: {'; '.join(differences)}. The state is taken "
            "over all the same: correct tx, unless the change is meant.",
            SettingsWarning,
            stacklevel=2,
        )
    return state


def _read(state_dict: Any, order: Sequence[Any] | None, step: int | None) -> TorchState:
    """The state of one optimizer, or of several side by side."""
    if isinstance(state_dict, Mapping) or not isinstance(state_dict, Sequence):
        return read_state_dict(state_dict, order=order, step=step)
    orders = [None] * len(state_dict) if order is None else list(order)
    if len(orders) != len(state_dict) or any(isinstance(names, str) for names in orders):
        raise ValueError(
            f"order must be a list of names for each of the {len(state_dict)} state_dicts, got "
            f"{len(orders)} entries: order=[muon_names, adamw_names]."
        )
    pairs = zip(state_dict, orders, strict=True)
    return together([read_state_dict(one, order=names, step=step) for one, names in pairs])
