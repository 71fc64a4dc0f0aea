"""The adversary of the gate head's training: projected gradient descent (PGD) on features, and its closed form."""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from deploy_kit.errors import OptionError

ONE_FROM = np.float32(24 * math.log(2))
"""Logit from which a float32 sigmoid is exactly 1: exp(−z) is at most half of float32's epsilon there."""

ZERO_FROM = np.float32(math.log(float(np.finfo(np.float32).max)))
"""Minus the logit below which a float32 sigmoid is exactly 0: exp(−z) overflows there."""


class Norm(StrEnum):
    """In which norm the change of a feature vector is measured."""

    LINF = "linf"
    L2 = "l2"


@dataclass(frozen=True)
class Attack:
    """Projected gradient descent on features, within a ball around the feature itself (Madry et al., 2018).

    It starts at the feature, without a random step. By default the ball is not cut at any value: features are leaky
    ReLU outputs, far above 1 and slightly below 0.

    The closed form: for a linear head z = w·x + b the loss' gradient by x is (sigmoid(z) − y) · w. Every step therefore
    goes along sign(w) (L∞) or w/‖w‖₂ (L2), away from the label, and being moved so a row cannot saturate. Where
    sigmoid(z) equals y in float32 to begin with, the gradient is zero and the row stays. So k steps move a row by
    min(k · alpha, epsilon), or not at all, and its margin falls by that times ‖w‖₁ (L∞) or ‖w‖₂ (L2).

    Attributes:
        steps: gradient steps, 0 for none.
        epsilon: radius of the ball, in units of the features.
        alpha: length of a step.
        norm: norm of the ball and of the steps.
        unit_interval: cut moved features to [0, 1] as MasterRacing does; there is no closed form then.
    """

    steps: int = 3
    epsilon: float = 0.1
    alpha: float = 0.01
    norm: Norm = Norm.LINF
    unit_interval: bool = False

    @property
    def reach(self) -> float:
        """How far a row is moved: the whole radius if the steps suffice for it."""
        return min(self.steps * self.alpha, self.epsilon)

    def direction(self, weight: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """Return the unit step (F,) that raises the logit most, for weights (F,)."""
        if self.norm is Norm.LINF:
            signs: npt.NDArray[np.floating] = np.sign(weight)
            return signs
        length = float(np.linalg.norm(weight))
        return weight / weight.dtype.type(length) if length else np.zeros_like(weight)

    def perturb(self, head: nn.Linear, features: Tensor, label: Tensor) -> Tensor:
        """Return features moved so that the head's loss grows, step by step.

        Args:
            head: gate head.
            features: (B, F).
            label: (B, 1) float, 0 or 1.
        """
        moved = features
        with torch.no_grad():
            weight = head.weight.detach()
            length = torch.linalg.vector_norm(weight)
            unit = (
                weight.sign() if self.norm is Norm.LINF else weight / length.clamp(min=torch.finfo(weight.dtype).tiny)
            )
            for _ in range(self.steps):
                # d BCE(z, y) / dx = (sigmoid(z) - y) · w for z = w·x + b, and only its direction is used.
                error = head(moved).sigmoid() - label
                moved = features + self._project(moved - features + self.alpha * error.sign() * unit)
                if self.unit_interval:
                    moved = moved.clamp(0, 1)
        return moved

    def logits(
        self, weight: npt.NDArray[np.float64], logit: npt.NDArray[np.float64], label: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.float64]:
        """Return the logits of moved rows, by the closed form.

        Args:
            weight: (F,) of the head.
            logit: (n,) of the rows as they are.
            label: (n,).

        Raises:
            OptionError: features are cut to [0, 1].
        """
        self.require_closed_form()
        margin = np.where(label, logit, -logit)
        fall = self.reach * float(weight @ self.direction(weight))
        margin -= fall * (margin < np.where(label, ONE_FROM, ZERO_FROM))
        return np.where(label, margin, -margin)

    def require_closed_form(self) -> None:
        """Raise OptionError where the closed form does not hold."""
        if self.unit_interval:
            raise OptionError("features that are cut to [0, 1] move one by one: there is no closed form")

    def _project(self, shift: Tensor) -> Tensor:
        if self.norm is Norm.LINF:
            return shift.clamp(-self.epsilon, self.epsilon)
        length = torch.linalg.vector_norm(shift, dim=1, keepdim=True)
        longest = length.clamp(min=max(self.epsilon, torch.finfo(shift.dtype).tiny))
        return shift * torch.div(self.epsilon, longest)


def worst_case_logits(
    weight: npt.NDArray[np.float64], logit: npt.NDArray[np.float64], label: npt.NDArray[np.bool_], attack: Attack
) -> npt.NDArray[np.float64]:
    """Return the logits that the strongest perturbation within the ball reaches: positives down, negatives up.

    For a linear head that is exact: the logit moves by epsilon · ‖w‖₁ (L∞) or ‖w‖₂ (L2), where PGD ends up with enough
    steps.
    """
    reach = attack.epsilon * float(weight @ attack.direction(weight))
    return np.where(label, logit - reach, logit + reach)
