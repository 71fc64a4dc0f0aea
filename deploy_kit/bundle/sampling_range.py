"""The ranges that synthetic and extreme samples are drawn from: the contract's, in the network's numbers."""

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract_fields import DepthSpec
from deploy_kit.policy.run.state_term import StateTerm

UNKNOWN_RANGE = 1.0
"""Samples of a term without a known range lie within ± this. Nothing is said about flight by it."""

Bounds = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]


def term_range(term: StateTerm) -> Bounds:
    """Return the lowest and highest number (size,) that the network sees of a term: clipped and scaled."""
    size = term.stop - term.start
    low = np.full(size, -UNKNOWN_RANGE) if term.low is None else np.array(term.low)
    high = np.full(size, UNKNOWN_RANGE) if term.high is None else np.array(term.high)
    if term.clip is not None:
        low, high = np.clip((low, high), *term.clip)
    ends = np.array([low, high]) * (1.0 if term.scale is None else np.array(term.scale))
    return ends.min(axis=0), ends.max(axis=0)


def pixel_range(depth: DepthSpec) -> tuple[float, float]:
    """Return the lowest and highest pixel; those of a normalised image where the contract does not know."""
    return 0.0 if depth.low is None else depth.low, 1.0 if depth.high is None else depth.high
