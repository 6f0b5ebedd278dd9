"""Gradient-flow probe: ``python -m examples.resnet.flow``, flags as for ``train``.

Every ``flow_every`` epochs a copy of the model trains ``flow_steps`` epochs with the tiny learning
rate ``lr_flow`` and the decay ``wd_flow``: down to the floor of the valley in which SGD bounces.
The run itself keeps the learning rate ``lr``; the numbers of the copy (``flow_...``) join its rows.
"""

import sys
import time
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from examples.runs.command import command, leave
from examples.runs.errors import Diverged, UserError
from examples.runs.records import Row

from . import step
from .flags import parse
from .sharpness import Sharpness
from .train import run
from .trainer import Trainer


class FlowProbe:
    """Trains copies of the model and measures them."""

    def __init__(self):
        self._sharpness: Sharpness | None = None

    def __call__(self, trainer: Trainer) -> Row | None:
        """The columns ``flow_...`` of this epoch, none where none is due; None if stopped."""
        config = trainer.config
        if trainer.epoch == 0 or (trainer.epoch - 1) % config.flow_every:
            return {}
        if self._sharpness is None:
            self._sharpness = Sharpness(
                trainer.graph, trainer.data, trainer.train_images, config.probe_examples,
                config.random_seed,
            )  # fmt: skip
        state = self._flow(trainer)
        if state is None:
            return None
        row = trainer.measure(state.params, state.stats, "flow_")
        trace = self._sharpness.trace(state.params, state.stats, lambda: trainer.stop.requested)
        if trainer.stop.requested:
            return None
        row |= {"flow_hessian_trace": float(trace.value), "flow_hessian_probes": int(trace.probes)}
        row["flow_hessian_trace_error"] = float(trace.standard_error)
        if config.jacobian:
            row["flow_jacobian_norm"] = self._sharpness.jacobian_norm(state.params, state.stats)
        if config.top_eigenvalue:
            row["flow_top_eigenvalue"] = self._sharpness.top_eigenvalue(state.params, state.stats)
        return row

    def _flow(self, trainer: Trainer) -> step.State | None:
        """The state of a copy after its epochs; None if stopped on the way."""
        epochs, rates = trainer.epochs, (trainer.config.lr_flow, trainer.config.wd_flow)
        params, stats = jax.tree.map(jnp.copy, (trainer.state.params, trainer.state.stats))
        state = trainer.layout.settle(step.new_state(params, stats, trainer.tx))
        done, last = trainer.step, trainer.step + trainer.config.flow_steps * epochs.steps
        while done < last:
            if trainer.stop.requested:
                return None
            started = time.monotonic()
            state, numbers = epochs.call(rates, state, done)
            numbers, seconds = jax.device_get(numbers), time.monotonic() - started
            try:
                done = epochs.reached(numbers, done, seconds)
            except Diverged as error:
                raise UserError(
                    f"the gradient flow from step {trainer.step} diverges: {error.what}. Try a "
                    "lower --lr_flow"
                ) from None
        return state


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    return run(parse(sys.argv[1:] if argv is None else argv, "examples.resnet.flow"), FlowProbe())


if __name__ == "__main__":
    leave(main())
