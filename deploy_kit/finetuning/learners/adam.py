"""Adam on one small vector, without a framework's overhead a step."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

BETAS = (0.9, 0.999)
EPS = 1e-8
"""Adam's settings in the paper and torch's defaults."""


class FlatAdam:
    """Adam (Kingma and Ba, 2015, algorithm 1) on a vector, in place; the same steps as `torch.optim.Adam`.

    It keeps the moments divided by (1 − beta), which saves two passes a step; the factor goes into the step's length.

    Args:
        vector: (P,) what is trained.
        lr: learning rate.

    Attributes:
        gradient: (P,) to be filled before every `step`.
    """

    def __init__(self, vector: npt.NDArray[np.float32], lr: float) -> None:
        self._vector, self._lr = vector, lr
        self._moments = np.zeros((2, vector.size), np.float32)
        self._inputs = np.zeros((2, vector.size), np.float32)
        self._decay = np.array(BETAS, np.float32)[:, None]
        self._change = np.empty(vector.size, np.float32)
        self._steps = 0
        self.gradient = self._inputs[0]

    def step(self) -> None:
        """Take one step along `gradient`."""
        self._steps += 1
        first, second = (1 - beta for beta in BETAS)
        # moments / sqrt(v̂) with v̂ = second · V / (1 − beta2^t): the common factor is taken out of the root.
        root = math.sqrt((1 - BETAS[1] ** self._steps) / second)
        length = self._lr * first / (1 - BETAS[0] ** self._steps) * root
        change = self._change
        np.multiply(self.gradient, self.gradient, out=self._inputs[1])
        np.multiply(self._moments, self._decay, out=self._moments)
        np.add(self._moments, self._inputs, out=self._moments)
        np.sqrt(self._moments[1], out=change)
        np.add(change, np.float32(EPS * root), out=change)
        np.divide(self._moments[0], change, out=change)
        np.multiply(change, np.float32(length), out=change)
        np.subtract(self._vector, change, out=self._vector)

    def state(self) -> dict[str, Any]:
        """Return what `restore` takes."""
        return {"moments": self._moments.copy(), "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier `state`."""
        self._moments[:] = state["moments"]
        self._steps = int(state["steps"])
