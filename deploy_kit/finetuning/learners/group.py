"""Robust training of the gate head in closed form by several processes, each with its share of every batch."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import softplus

from deploy_kit.arrays import FloatArray
from deploy_kit.finetuning.group import TrainingGroup
from deploy_kit.finetuning.learners.attack import ONE_FROM, ZERO_FROM, Attack
from deploy_kit.finetuning.learners.cuda import CudaLearner


class GroupLearner(CudaLearner):
    """The same training as `CudaLearner`, on the CPU too; gradients are summed over all processes before each step.

    Args:
        vector: (F + 1,) weights and bias to begin with.
        attack: what is done to the rows; its closed form must hold.
        batch_size: rows a step, of all processes together.
        lr: Adam's learning rate.
        device: torch device.
        group: the processes.

    Raises:
        OptionError: the attack has no closed form.
    """

    def __init__(
        self,
        vector: npt.NDArray[np.floating],
        attack: Attack,
        batch_size: int,
        lr: float,
        device: str,
        group: TrainingGroup,
    ) -> None:
        super().__init__(vector, attack, batch_size, lr, device, block_rows=batch_size)
        self._group = group

    @torch.no_grad()
    def learn(self, block: FloatArray | Tensor) -> float:
        """Train on a block of signed rows (n, F + 1), the same in all processes; return the sum of all rows' losses."""
        signed = torch.as_tensor(block, device=self._vector.device)
        losses = self._vector.new_zeros((), dtype=torch.float64)
        for batch in torch.split(signed, self._batch_size):
            rows = batch[self._group.share(len(batch))]
            limit = torch.where(rows[:, -1] > 0, float(ONE_FROM), float(ZERO_FROM))
            margin = self._margin[: len(rows)]
            self._step(rows, limit, margin, len(batch))
            losses += softplus(-margin).sum(dtype=torch.float64)
            self._steps += 1
        self._group.add(losses)
        return float(losses)

    def _sum(self, gradient: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        joined = torch.cat([gradient, moved[None]])
        self._group.add(joined)
        return joined[:-1], joined[-1]
