"""An epoch as few calls of one compiled program, for the training and for the gradient flow."""

from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from examples.runs.errors import Diverged
from examples.runs.layout import Layout
from examples.runs.pace import Pace

from . import data, optim, step
from .config import Config


class Numbers(NamedTuple):
    """What a call gives beside the state."""

    last: int  # The step of the epoch that the call is to reach;
    reached: jax.Array  # the one it has reached, which is less if a step is not finite.
    loss: jax.Array  # Of the last step.
    grad_norm: jax.Array


class Epochs:
    """Runs steps of an epoch, several with one call.

    The order of epoch e and its augmentation depend on the key and e alone, so that a run which
    stops anywhere goes on with the very next batch.
    """

    def __init__(self, graph: nnx.GraphDef, config: Config, images: step.Images, layout: Layout):
        self.images, self.batch_size, self.layout = images, config.batch_size, layout
        self.key = jax.random.fold_in(jax.random.key(config.random_seed), 1)
        self.steps = len(images.y) // config.batch_size
        # XLA on a CPU has fast gradients of convolutions outside of loops only (jaxlib 0.10: ten
        # times slower inside); there every step is a call, which costs nothing beside it.
        looped = jax.default_backend() != "cpu"
        self.train_steps = step.make_train_steps(
            graph,
            optim.make_optimizer_of_rates(config),
            config.ema,
            augmented=not config.no_data_augm,
            looped=looped,
        )
        self.pace = Pace(None if looped else 1)
        self._order: tuple[int, jax.Array] | None = None

    def order(self, epoch: int) -> jax.Array:
        """The images of every step of an epoch, int32 (S, B)."""
        if self._order is None or self._order[0] != epoch:
            key = jax.random.fold_in(self.key, 2 * epoch)
            order = data.order_of_epoch(key, len(self.images.y), self.batch_size)
            self._order = epoch, order
        return self._order[1]

    def call(
        self, rates: tuple[float, float], state: Any, begun: int, before: Numbers | None = None
    ) -> tuple[step.State, Numbers]:
        """Starts some steps, at most to the end of the epoch, and waits for nothing.

        Args:
          rates: Learning rate and weight decay.
          state: After ``begun`` steps.
          begun: Counted from the first epoch on.
          before: Of the call before this one, if it has not been read: where a step of it was not
            finite, this call tries that one again, and changes nothing either.
        """
        epoch, first = divmod(begun, self.steps)
        last = min(first + self.pace.updates, self.steps)
        start = self.layout.copy(np.int32(first)) if before is None else before.reached
        key = jax.random.fold_in(self.key, 2 * epoch + 1)
        state, *found = self.train_steps(
            state, self.images, self.order(epoch), key, rates, start, last
        )
        return state, Numbers(last, *found)

    def reached(self, numbers: Numbers, begun: int, seconds: float) -> int:
        """The steps after a call that began after ``begun`` ones and took so many seconds.

        Raises:
          Diverged: If a step was not finite; the state is that before it.
        """
        first, done = begun % self.steps, begun - begun % self.steps + int(numbers.reached)
        if numbers.reached < numbers.last:
            raise Diverged(
                f"step {done + 1} has loss {float(numbers.loss)} and gradient norm "
                f"{float(numbers.grad_norm)}",
                "Try a lower --lr, or --batch_norm",
                done,
            )
        self.pace.learn(numbers.last - first, seconds)
        return done
