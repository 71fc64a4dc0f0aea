"""Robust training of the gate head in closed form on a GPU: rows stay there, batches are replayed as a graph."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import softplus

from deploy_kit.arrays import FloatArray
from deploy_kit.data.blocks import ShuffledRows
from deploy_kit.finetuning.learners.adam import BETAS, EPS
from deploy_kit.finetuning.learners.attack import ONE_FROM, ZERO_FROM, Attack, Norm


class CudaRows:
    """Signed rows (see `ShuffledRows`) on a device, in the same order as on the CPU.

    Args:
        rows: rows in memory.
        device: torch device.
    """

    def __init__(self, rows: ShuffledRows, device: str) -> None:
        self._order = rows.order
        self._rows = torch.from_numpy(rows.loaded).to(device)

    def shuffled(self, seed: Sequence[int], block_rows: int) -> Iterator[Tensor]:
        """Yield every row once in a random order, so many at a time."""
        order = torch.from_numpy(np.concatenate(list(self._order(seed)))).to(self._rows.device)
        for index in order.split(block_rows):  # type: ignore[no-untyped-call]  # torch's own
            yield self._rows.index_select(0, index)


class CudaLearner:
    """The same training as `ClosedFormLearner` by torch's operations.

    A batch is some twenty short operations, whose start takes longer than their work. On CUDA a block's batches are
    therefore captured once as a graph and replayed.

    Args:
        vector: (F + 1,) weights and bias to begin with.
        attack: what is done to the rows; its closed form must hold.
        batch_size: rows a step.
        lr: Adam's learning rate.
        device: torch device.
        block_rows: rows of the blocks that are captured, a multiple of the batch size; others run one by one.

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
        block_rows: int,
    ) -> None:
        attack.require_closed_form()
        self._attack, self._batch_size, self._lr = attack, batch_size, lr
        self._vector = torch.tensor(vector, dtype=torch.float32, device=device)
        self._moments = self._vector.new_zeros((2, vector.size))
        self._decay = self._vector.new_tensor(BETAS)[:, None]
        # Powers of the betas in double precision: float32 would lose them within some ten thousand steps.
        self._betas = torch.tensor(BETAS, dtype=torch.float64, device=device)
        self._powers = torch.ones_like(self._betas)
        self._weights = torch.ones_like(self._vector)
        self._weights[-1] = 0
        self._block = self._vector.new_zeros((block_rows, vector.size))
        self._limit = self._vector.new_zeros(block_rows)
        self._margin = self._vector.new_zeros(block_rows)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps = 0

    @property
    def vector(self) -> FloatArray:
        """(F + 1,) weights and bias."""
        found: FloatArray = self._vector.cpu().numpy()
        return found

    @torch.no_grad()
    def learn(self, block: FloatArray | Tensor) -> float:
        """Train on a block of signed rows (n, F + 1), batch by batch; return the sum of its rows' losses."""
        rows = torch.as_tensor(block, device=self._vector.device)
        count = len(rows)
        self._block[:count].copy_(rows)
        self._limit[:count] = torch.where(rows[:, -1] > 0, float(ONE_FROM), float(ZERO_FROM))
        if self._vector.is_cuda and count == len(self._block):
            if self._graph is None:
                self._graph = self._capture()
            self._graph.replay()
        else:
            self._batches(count)
        self._steps += -(-count // self._batch_size)
        return float(softplus(-self._margin[:count]).sum(dtype=torch.float64))

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Capture the batches of a whole block, after one run that lets libraries set themselves up."""
        kept = [tensor.clone() for tensor in (self._vector, self._moments, self._powers)]
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch's own
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._batches(len(self._block))
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._batches(len(self._block))
        for tensor, value in zip((self._vector, self._moments, self._powers), kept, strict=True):
            tensor.copy_(value)
        return graph

    def _batches(self, count: int) -> None:
        for start in range(0, count, self._batch_size):
            stop = min(start + self._batch_size, count)
            self._step(self._block[start:stop], self._limit[start:stop], self._margin[start:stop], stop - start)

    def _step(self, rows: Tensor, limit: Tensor, margin: Tensor, count: int) -> None:
        vector, reach = self._vector, self._attack.reach
        direction = vector * self._weights
        if self._attack.norm is Norm.LINF:
            direction = direction.sign()
        else:
            direction = direction / torch.linalg.vector_norm(direction).clamp(min=torch.finfo(torch.float32).tiny)
        torch.mv(rows, vector, out=margin)
        shift = (margin < limit).float() * reach
        margin.sub_(shift * torch.dot(direction, vector))
        error = torch.sigmoid(-margin) * (-1 / count)
        gradient, moved = self._sum(torch.mv(rows.T, error), torch.dot(error, shift))
        gradient = gradient - direction * moved
        self._powers.mul_(self._betas)
        self._moments.lerp_(torch.stack([gradient, gradient * gradient]), 1 - self._decay)
        unbiased = self._moments / (1 - self._powers)[:, None].float()
        vector.addcdiv_(unbiased[0], unbiased[1].sqrt_().add_(EPS), value=-self._lr)

    def _sum(self, gradient: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Return sums over all rows of a batch, of which there may be more elsewhere."""
        return gradient, moved

    def state(self) -> dict[str, Any]:
        """Return weights, bias and Adam's state."""
        moments = self._moments.cpu().numpy()
        return {"vector": self.vector.copy(), "moments": moments.copy(), "steps": self._steps}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from an earlier `state`."""
        self._vector.copy_(torch.from_numpy(np.asarray(state["vector"])))
        self._moments.copy_(torch.from_numpy(np.asarray(state["moments"])))
        self._steps = int(state["steps"])
        self._powers.copy_(self._betas**self._steps)
