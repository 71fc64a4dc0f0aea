"""Finds observations and actions that are not finite, without making the simulator wait for the answer on a GPU.

There, asking whether a number is finite holds the host up until everything queued is done, while it could queue the
next step. The answer is therefore copied beside the step that is being flown, and read after it.
"""

import torch
from torch import Tensor

from deploy_kit.errors import TaskError

LATE_DEVICES: tuple[str, ...] = ("cuda",)
"""Types of device where the answer is read after the step."""


class FiniteCheck:
    """Checks one rollout, step by step: `take` the observation, `take_action`, fly the step, then `verdict`.

    Args:
        go_on: whether observations that are not finite are replaced by zeros; else they end the flight.
    """

    def __init__(self, go_on: bool) -> None:
        self._go_on = go_on
        self._observation = self._action = self._rows = torch.empty(0)
        self._told: Tensor | None = None
        self._event: torch.cuda.Event | None = None

    def take(self, observation: Tensor, step: int) -> None:
        """Look at an observation (N, …), and put zeros where it is not finite if the flight goes on.

        Raises:
            TaskError: it is not finite, and the device does not answer later.
        """
        # A sum is finite only if its terms are, and takes one pass without a copy.
        self._observation, self._rows = observation, ~torch.isfinite(observation.sum(dim=1))
        if self._late:
            if self._go_on:
                observation.masked_fill_(self._rows[:, None], 0.0)
        elif self._rows.any():
            self._rows &= ~torch.isfinite(observation).all(dim=1)
            self._end_if_broken(step)
            observation[self._rows] = 0.0

    def take_action(self, action: Tensor, step: int) -> None:
        """Look at an action (N, …).

        Raises:
            TaskError: it is not finite, and the device does not answer later.
        """
        self._action = action
        if not self._late:
            if not torch.isfinite(action).all():
                self._end(step)
            return
        found = torch.stack([self._rows.any(), ~torch.isfinite(action).all()])
        if found.is_cuda:
            if self._told is None:
                self._told = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            self._told.copy_(found, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own
            self._event.record()
        else:
            self._told = found

    def verdict(self, step: int) -> Tensor | None:
        """Return where the observation was not finite, (N,), None if it was everywhere; called after the step.

        Raises:
            TaskError: it was not and the flight does not go on, or an action was not.
        """
        if self._late:
            assert self._told is not None
            if self._event is not None:
                self._event.synchronize()
            broken, wrong_action = self._told.tolist()
            if broken:
                self._end_if_broken(step)
            if wrong_action:
                self._end(step)
            return self._rows if broken else None
        return self._rows if self._rows.any() else None

    @property
    def _late(self) -> bool:
        return self._observation.device.type in LATE_DEVICES

    def _end_if_broken(self, step: int) -> None:
        if self._rows.any() and (self._rows.all() or not self._go_on):
            env = int(self._rows.nonzero()[0])
            raise TaskError(
                f"the simulator's observation is not finite in environment {env} at step {step}; the task's physics "
                "or sensors fail there"
            )

    def _end(self, step: int) -> None:
        row = int((~torch.isfinite(self._action)).any(dim=1).nonzero()[0])
        raise TaskError(f"the policy's action is not finite in environment {row} at step {step}; check the checkpoint")
