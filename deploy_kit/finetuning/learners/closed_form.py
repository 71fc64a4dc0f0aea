"""Robust training of the gate head in closed form: no moved features, no autograd, two products a batch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.arrays import FloatArray
from deploy_kit.finetuning.learners.adam import FlatAdam
from deploy_kit.finetuning.learners.attack import ONE_FROM, ZERO_FROM, Attack, Norm


class ClosedFormLearner:
    """Adam on the binary cross-entropy of rows that `Attack` has moved, on the CPU.

    With signed rows r = s·(x, 1), weights and bias as one vector v, and u the attack's direction, a batch needs
    m = r·v, the moved margin m' = m − reach·(u·w) (saturated rows stay), e = −1/(1 + exp(m')) = d loss/d m', and the
    gradient (Σ e·r − reach·u·Σ e over moved rows) / B.

    Args:
        vector: (F + 1,) weights and bias to begin with.
        attack: what is done to the rows; its closed form must hold.
        batch_size: rows a step.
        lr: Adam's learning rate.

    Raises:
        OptionError: the attack has no closed form.
    """

    def __init__(self, vector: npt.NDArray[np.floating], attack: Attack, batch_size: int, lr: float) -> None:
        attack.require_closed_form()
        self._vector = vector.astype(np.float32)
        self._attack, self._batch_size = attack, batch_size
        self._adam = FlatAdam(self._vector, lr)
        self._error = np.empty(batch_size, np.float32)
        self._shift = np.empty(batch_size, np.float32)
        self._moved = np.empty(batch_size, np.bool_)
        self._direction = np.zeros_like(self._vector)

    @property
    def vector(self) -> FloatArray:
        """(F + 1,) weights and bias."""
        return self._vector

    def learn(self, block: FloatArray) -> float:
        """Train on a block of signed rows (n, F + 1), batch by batch; return the sum of its rows' losses."""
        margin = np.empty(len(block), np.float32)
        limit = np.where(block[:, -1] > 0, ONE_FROM, ZERO_FROM)
        # A diverging head overflows; whoever trains looks at the loss.
        with np.errstate(all="ignore"):
            for start in range(0, len(block), self._batch_size):
                stop = start + self._batch_size
                self._step(block[start:stop], margin[start:stop], limit[start:stop])
            return float(np.logaddexp(np.float32(0), -margin).sum(dtype=np.float64))

    def _step(self, rows: FloatArray, margin: FloatArray, limit: FloatArray) -> None:
        count = len(rows)
        error, shift, moved = self._error[:count], self._shift[:count], self._moved[:count]
        direction, gradient = self._direction, self._adam.gradient
        np.dot(rows, self._vector, out=margin)
        if self._attack.norm is Norm.LINF:
            np.sign(self._vector, out=direction)
            direction[-1] = 0
        else:
            direction[:-1] = self._attack.direction(self._vector[:-1])
        np.less(margin, limit, out=moved)
        np.multiply(moved, np.float32(-self._attack.reach * float(np.dot(direction, self._vector))), out=shift)
        np.add(margin, shift, out=margin)
        np.exp(margin, out=error)
        np.add(error, np.float32(1), out=error)
        np.divide(np.float32(-1 / count), error, out=error)
        np.dot(error, rows, out=gradient)
        np.multiply(direction, np.float32(self._attack.reach * float(np.dot(error, moved))), out=direction)
        np.subtract(gradient, direction, out=gradient)
        self._adam.step()

    def state(self) -> dict[str, Any]:
        """Return weights, bias and Adam's state."""
        return {"vector": self._vector.copy(), **self._adam.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier `state`."""
        self._vector[:] = state["vector"]
        self._adam.restore(state)
