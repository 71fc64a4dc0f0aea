"""The processes that train one head together, and the sums that they exchange."""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from deploy_kit.errors import OptionError
from deploy_kit.finetuning.options import LBFGS, FinetuneOptions
from deploy_kit.ranks import Rank, launched_rank, take_gpu

SHARED_BATCH = 262_144
"""Rows of one of Adam's steps from which processes share it: below, exchanging gradients takes longer than it saves.

With batches of 65 536 rows a step took 2.7 ms on one H200, 3.7 ms shared by two and 4 ms by four: two to three of them
are the exchange, and what is saved outgrows them from some 110 000 rows.
"""

PATIENCE = timedelta(minutes=30)
"""Longest wait for another process: the first one judges heads and draws while the others wait."""


def join_group(options: FinetuneOptions) -> "tuple[FinetuneOptions, TrainingGroup | None]":
    """Return the options with this process's own GPU, and the group that a launcher made, None for one process.

    Raises:
        OptionError: there are fewer GPUs than processes, or the training cannot be shared.
    """
    rank = launched_rank()
    if rank.count == 1:
        return options, None
    if options.masterracing_compatible or options.compare:
        raise OptionError("--masterracing-compatible and --compare train in one process; start it without torchrun")
    if options.device.startswith("cuda"):
        take_gpu(rank)
        options = replace(options, device="cuda:0")
    return options, TrainingGroup(rank, options.device)


def is_shared(options: FinetuneOptions, solver: str) -> bool:
    """Return whether several processes share a training; else the first one trains alone."""
    return solver == LBFGS or options.adam.batch_size >= SHARED_BATCH


class TrainingGroup:
    """All processes of one training. Use it as a context manager.

    Each holds all rows and takes its share of every batch; sums over shares are what one process would have summed, to
    float tolerance, and are the same in all of them.

    Args:
        rank: which process this is.
        device: torch device of this process.
    """

    def __init__(self, rank: Rank, device: str) -> None:
        self.rank = rank
        self._device = torch.device(device)

    def __enter__(self) -> "TrainingGroup":
        cuda = self._device.type == "cuda"
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
        dist.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        dist.destroy_process_group()

    def share(self, count: int) -> slice:
        """Return which of a number of rows are this process's."""
        bounds = [number * count // self.rank.count for number in (self.rank.index, self.rank.index + 1)]
        return slice(*bounds)

    def add(self, values: Tensor) -> None:
        """Replace values by their sum over all processes.

        Raises:
            OptionError: another process is gone.
        """
        try:
            dist.all_reduce(values)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise OptionError(
                f"another process of this training is gone ({reason:.200}); --resume goes on from the last epoch"
            ) from error

    def sum(self, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return the sum of float64 numbers over all processes.

        Raises:
            OptionError: another process is gone.
        """
        total = torch.as_tensor(np.asarray(values, np.float64), device=self._device).clone()
        self.add(total)
        found: npt.NDArray[np.float64] = total.cpu().numpy()
        return found

    def decide(self, answer: bool) -> bool:
        """Return the first process's answer, in all of them.

        Raises:
            OptionError: another process is gone.
        """
        mine: Any = float(answer) if self.rank.leads else 0.0
        return bool(self.sum([mine])[0] > 0.5)
