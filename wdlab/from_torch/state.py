"""What a torch optimizer's ``state_dict()`` says, by parameter name."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from wdlab._core.names import first_few
from wdlab.from_torch.names import as_numpy


class TorchState(NamedTuple):
    """A torch optimizer's state."""

    names: list[str]  # Of its parameters, in its order.
    buffers: dict[str, dict[str, Any]]  # Name -> e.g. "exp_avg" -> tensor; without the step.
    step: int  # Updates made.
    settings: dict[str, dict[str, Any]]  # Name -> e.g. "lr" -> number, of the parameter's group.


def read_state_dict(
    state_dict: Mapping[str, Any], *, order: Sequence[str] | None = None, step: int | None = None
) -> TorchState:
    """Reads names, buffers, settings and the one step count from ``optimizer.state_dict()``.

    Args:
      state_dict: With "state" and "param_groups", whose parameters are numbers (with holes, or the
        ids of torch < 1.6) or names, as FSDP and ``torch.distributed.checkpoint`` have them; or
        flattened by the latter, "state.fc.weight.exp_avg".
      order: Torch names in the order of the optimizer's parameters, unless it holds them.
      step: Updates made, where the state does not say.

    Raises:
      TypeError: If ``state_dict`` is no such dict.
      ValueError: If names or the step are missing or contradict each other, or a group maximizes or
        dampens.

    >>> saved = {"state": {0: {"step": 7.0, "exp_avg": [0.0]}}, "param_groups": [{"params": [0]}]}
    >>> read_state_dict(saved, order=["w"]).step
    7
    """
    state_dict = nested(state_dict)
    groups = state_dict["param_groups"]
    _check_groups(groups)
    names = _names(groups, order)
    buffers: dict[str, dict[str, Any]] = {name: {} for name in names.values()}
    steps: dict[str, int] = {}
    for key, entry in state_dict["state"].items():
        if str(key) not in names:
            raise ValueError(
                f"the state_dict has state of parameter {key!r}, and no param_group has that one."
            )
        name = names[str(key)]
        buffers[name] = {k: v for k, v in entry.items() if k != "step" and v is not None}
        if entry.get("step") is not None:
            steps[name] = int(as_numpy(entry["step"]))
    settings = {names[str(key)]: dict(group) for group in groups for key in group["params"]}
    return TorchState(list(names.values()), buffers, _one_step(steps, step), settings)


def together(states: Sequence[TorchState]) -> TorchState:
    """Returns the states of optimizers that trained one model side by side, such as Muon and AdamW.

    Raises:
      ValueError: If two of them trained one parameter, or made different numbers of updates.

    >>> muon, adamw = (TorchState([name], {}, 7, {}) for name in ("fc.weight", "fc.bias"))
    >>> together([muon, adamw]).names
    ['fc.weight', 'fc.bias']
    """
    names = [name for state in states for name in state.names]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two of the state_dicts have {first_few(twice)}: each parameter has one.")
    made = sorted({state.step for state in states})
    if len(made) > 1:
        raise ValueError(f"the optimizers made {made[0]} and {made[-1]} updates; give equal ones.")
    buffers = {name: entry for state in states for name, entry in state.buffers.items()}
    settings = {name: group for state in states for name, group in state.settings.items()}
    return TorchState(names, buffers, made[0], settings)


def nested(state_dict: Any) -> Mapping[str, Any]:
    """The state_dict with "state" and "param_groups", also where it was flattened.

    >>> nested({"state.w.exp_avg": 0.0, "param_groups.w.lr": 0.1})
    {'state': {'w': {'exp_avg': 0.0}}, 'param_groups': [{'lr': 0.1, 'params': ['w']}]}
    """
    found = list(state_dict) if isinstance(state_dict, Mapping) else type(state_dict).__name__
    if isinstance(state_dict, Mapping) and {"state", "param_groups"} <= set(state_dict):
        return state_dict
    if not isinstance(found, list) or not found or not all(map(_is_flat, found)):
        raise TypeError(
            "expected optimizer.state_dict() with 'state' and 'param_groups', got "
            f"{found if isinstance(found, str) else first_few([repr(key) for key in found])}. Of a "
            "whole checkpoint, pass the optimizer's entry."
        )
    parts: dict[str, dict[str, Any]] = {"state": {}, "param_groups": {}}
    for key, value in state_dict.items():
        part, rest = key.split(".", 1)
        name, entry = rest.rsplit(".", 1)
        parts[part].setdefault(name, {})[entry] = value
    groups = [{**group, "params": [name]} for name, group in parts["param_groups"].items()]
    return {"state": parts["state"], "param_groups": groups}


def _is_flat(key: Any) -> bool:
    return str(key).split(".")[0] in ("state", "param_groups") and str(key).count(".") > 1


def _check_groups(groups: Sequence[Mapping[str, Any]]) -> None:
    for i, group in enumerate(groups):
        if group.get("maximize"):
            raise ValueError(
                f"param_groups[{i}] has maximize=True. There is no such switch here: negate the "
                "gradients, write optax.chain(optax.scale(-1.0), tx), and set maximize to False in "
                "the state_dict."
            )
        if group.get("dampening"):
            raise ValueError(
                f"param_groups[{i}] has dampening={group['dampening']}, which optax.trace lacks; "
                "with it torch's momentum buffer is smaller. Only dampening=0 goes over."
            )


def _names(groups: Sequence[Mapping[str, Any]], order: Sequence[str] | None) -> dict[str, str]:
    """Torch's number of a parameter, as a string -> its name, in the optimizer's order."""
    keys = [key for group in groups for key in group["params"]]
    saved = [name for group in groups for name in group.get("param_names") or ()]
    if keys and all(isinstance(key, str) and not key.isdigit() for key in keys):
        saved = saved or keys
    if order is None and not saved and keys:
        raise ValueError(
            f"the state_dict numbers its {len(keys)} parameters and does not name them. Pass "
            "order=[name for name, _ in model.named_parameters()], in the order in which the "
            "optimizer was given them."
        )
    if order is not None and saved and list(order) != saved:
        raise ValueError(
            f"order begins {list(order)[:3]}, and the state_dict names its parameters {saved[:3]}, "
            "...; leave order out."
        )
    names = saved or list(order or ())
    if len(names) != len(keys) or len(set(names)) != len(names) or len(set(keys)) != len(keys):
        raise ValueError(
            f"order has {len(names)} names ({len(set(names))} different), the optimizer "
            f"{len(keys)} parameters ({len(set(keys))} different). List what it was given: buffers "
            "and frozen parameters may not be in it, a tied parameter once."
        )
    return {str(key): name for key, name in zip(keys, names, strict=True)}


def _one_step(steps: dict[str, int], step: int | None) -> int:
    different = {count: name for name, count in steps.items()}
    if len(different) > 1:
        (a, first), (b, second) = sorted(different.items())[:2]
        raise ValueError(
            f"torch made {a} updates of {first!r} and {b} of {second!r} (no gradient in some "
            "steps); one state here has one count. Go on with the parameters that agree, or set "
            "the steps equal in the state_dict if the bias correction is over."
        )
    found = next(iter(different), None)
    if found is None:
        if step is None:
            raise ValueError(
                "the state has no step count (SGD keeps none). Pass step=, the updates made so far."
            )
        return step
    if step is not None and found != step:
        raise ValueError(f"step={step}, and the state_dict says {found}; leave step out.")
    return found
