"""Loss and error of the weights on windows of both splits."""

from typing import Any

import jax
import numpy as np

from examples.runs.layout import Layout
from examples.runs.records import Row

from . import data as data_lib
from . import model, step
from .config import Config


class Evaluation:
    """The windows of the training and the held-out tokens, and what the model makes of them.

    Args:
      graph: How the model computes.
      data: The tokens.
      config: The settings.
      layout: Where the windows lie.

    Raises:
      UserError: If the devices cannot share a batch of them equally.
    """

    def __init__(self, graph: Any, data: data_lib.Dataset, config: Config, layout: Layout):
        self._layout, self._evaluate = layout, step.make_evaluate(graph)
        self._windows = {}
        for split, tokens in (("train", data.train), ("val", data.val)):
            windows_NxBxM = data_lib.evaluation_windows(tokens, data, config)
            size = windows_NxBxM.shape[1]
            layout.rows(size, "the smaller of --batch_size and --eval_examples, ")
            self._windows[split] = layout.batch(windows_NxBxM, np.arange(size), size, axis=1)

    def row(self, params: model.Params, average: model.Params | None) -> Row:
        """Losses and errors of the weights, and of their moving average where there is one."""
        row = {}
        averaged = {} if average is None else {"_ema": average}
        with self._layout.active():
            for suffix, weights in {"": params, **averaged}.items():
                for split, windows in self._windows.items():
                    loss, error = self._evaluate(weights, windows)
                    row |= {f"{split}_loss{suffix}": loss, f"{split}_error{suffix}": error}
        values = jax.device_get(list(row.values()))  # A dict would come back in another order.
        return dict(zip(row, map(float, values), strict=True))
