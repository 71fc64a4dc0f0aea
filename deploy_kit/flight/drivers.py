"""Lets an exported artifact fly: from its outputs by role to what the environment takes."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from deploy_kit.policy.network import PolicyOutput
from deploy_kit.task.interface import ActionTransform

_SATURATION = 1.0 - 2.0**-24
"""Largest float32 below 1: the network's action is recovered from a saturated command up to here."""


class ArtifactDriver:
    """Flies with an artifact that gives numpy arrays by role ("action" or "command", "gate_logit" or …).

    Args:
        run: maps flat observations (N, 6928) to arrays by role.
        transform: the contract's action transform, undone where the artifact gives commands in physical units.
    """

    def __init__(
        self, run: Callable[[npt.NDArray[np.float32]], dict[str, npt.NDArray[np.float32]]], transform: ActionTransform
    ) -> None:
        self._run = run
        self._transform = transform

    def __call__(self, observation: Tensor) -> PolicyOutput:
        """Return action and gate logit for flat observations (N, 6928); features are left empty, (N, 0)."""
        outputs = self._run(observation.cpu().numpy())
        action = outputs["action"] if "action" in outputs else self._undo(outputs["command"])
        return PolicyOutput(
            torch.from_numpy(action).to(observation.device),
            self._gate_logit(outputs, observation.device),
            observation.new_empty(len(observation), 0),
        )

    def _undo(self, command: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        squashed = (command.astype(np.float64) - self._transform.offset) / self._transform.scale
        return np.arctanh(np.clip(squashed, -_SATURATION, _SATURATION)).astype(np.float32)

    @staticmethod
    def _gate_logit(outputs: dict[str, npt.NDArray[np.float32]], device: torch.device) -> Tensor | None:
        if "gate_logit" in outputs:
            return torch.from_numpy(outputs["gate_logit"]).to(device)
        if "gate_probability" in outputs:
            return torch.from_numpy(outputs["gate_probability"]).to(device, torch.float64).logit(eps=1e-7).float()
        return None
