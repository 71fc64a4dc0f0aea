"""Random draws on a device, from a generator of the environment's own."""

import torch
from torch import Tensor


def uniform(shape: torch.Size | tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Return uniform draws from [low, high) on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)
