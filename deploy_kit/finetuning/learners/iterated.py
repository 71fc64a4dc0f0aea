"""Training of the gate head by PGD iterated with torch: for attacks without a closed form."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from deploy_kit.arrays import FloatArray
from deploy_kit.finetuning.learners.attack import Attack


class IteratedLearner:
    """Adam on the binary cross-entropy of rows that `Attack.perturb` has moved, by autograd; see `Learner`.

    Args:
        vector: (F + 1,) weights and bias to begin with.
        attack: what is done to the rows.
        batch_size: rows a step.
        lr: Adam's learning rate.
        device: torch device.
    """

    def __init__(
        self, vector: npt.NDArray[np.floating], attack: Attack, batch_size: int, lr: float, device: str = "cpu"
    ) -> None:
        self._attack, self._batch_size = attack, batch_size
        self._head = nn.Linear(len(vector) - 1, 1, device=device)
        self._set(vector)
        self._optimizer = torch.optim.Adam(self._head.parameters(), lr=lr)

    @property
    def vector(self) -> FloatArray:
        """(F + 1,) weights and bias."""
        parameters = [self._head.weight[0].detach(), self._head.bias.detach()]
        return torch.cat(parameters).cpu().numpy()

    def learn(self, block: FloatArray | torch.Tensor) -> float:
        """Train on a block of signed rows (n, F + 1), batch by batch; return the sum of its rows' losses."""
        signed = torch.as_tensor(block, device=self._head.weight.device)
        features, label = signed[:, :-1] * signed[:, -1:], (signed[:, -1:] > 0).float()
        total = 0.0
        batches = (torch.split(values, self._batch_size) for values in (features, label))
        for rows, wanted in zip(*batches, strict=True):
            loss = binary_cross_entropy_with_logits(self._head(self._attack.perturb(self._head, rows, wanted)), wanted)
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own
            self._optimizer.step()
            total += float(loss.detach()) * len(rows)
        return total

    def state(self) -> dict[str, Any]:
        """Return weights, bias and Adam's state."""
        moments = [self._optimizer.state[parameter] for parameter in (self._head.weight, self._head.bias)]
        state: dict[str, Any] = {"vector": self.vector}
        for name in ("exp_avg", "exp_avg_sq"):
            state[name] = torch.cat([entry[name].reshape(-1) for entry in moments]).cpu().numpy()
        return {**state, "steps": int(moments[0]["step"])}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier `state`."""
        self._set(state["vector"])
        for parameter, part in ((self._head.weight, slice(None, -1)), (self._head.bias, slice(-1, None))):
            self._optimizer.state[parameter] = {
                "step": torch.tensor(float(state["steps"])),
                **{
                    name: torch.from_numpy(state[name][part].reshape(parameter.shape).copy()).to(parameter.device)
                    for name in ("exp_avg", "exp_avg_sq")
                },
            }

    def _set(self, vector: npt.NDArray[np.floating]) -> None:
        values = torch.from_numpy(np.asarray(vector, np.float32))
        with torch.no_grad():
            self._head.weight.copy_(values[None, :-1])
            self._head.bias.copy_(values[-1:])
