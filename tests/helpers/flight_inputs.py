"""What the onboard runner is given in flight: usual inputs, and such as it must refuse."""

from collections.abc import Callable
from typing import Any

import numpy as np

Inputs = tuple[Any, Any]


def sample(seed: int) -> Inputs:
    """Return a state without the last action, and an image in metres."""
    rng = np.random.default_rng(seed)
    state = np.concatenate([rng.normal(size=3), [0.0, 0.0, 1.0], rng.normal(size=6)])
    return state, rng.uniform(0.2, 14.0, (72, 96))


NAN, INF = np.nan, np.inf


def spoilt(place: tuple[str, Any], value: float) -> Callable[..., Inputs]:
    """Return what puts a number into the state or the image."""

    def make(state: Any, depth: Any) -> Inputs:
        (state if place[0] == "state" else depth)[place[1]] = value
        return state, depth

    return make


FAULTS: dict[str, Callable[..., Inputs]] = {
    "state-nan": spoilt(("state", 3), NAN),
    "state-inf": spoilt(("state", 0), INF),
    "state-high": spoilt(("state", 0), 16.6),
    "state-at-the-margin": spoilt(("state", 0), 16.5),
    "state-low": spoilt(("state", 5), -1.11),
    "depth-nan": spoilt(("depth", (3, 4)), NAN),
    "depth-last-nan": spoilt(("depth", (71, 95)), NAN),
    "depth-negative": spoilt(("depth", (0, 0)), -1e-3),
    "depth-minus-infinity": spoilt(("depth", (0, 0)), -INF),
    "depth-minus-zero": spoilt(("depth", (0, 0)), -0.0),
    "depth-zero": spoilt(("depth", (0, 0)), 0.0),
    "depth-far": spoilt(("depth", slice(None)), INF),
    "depth-at-the-clip": spoilt(("depth", slice(None)), 10.0),
    "depth-millimetres": spoilt(("depth", slice(None)), 2500.0),
    "depth-zeros": spoilt(("depth", slice(None)), 0.0),
    "state-shape": lambda state, depth: (state[:11], depth),
    "state-list": lambda state, depth: (state.tolist(), depth),
    "state-whole-numbers": lambda state, depth: (state.astype(int), depth),
    "depth-shape": lambda state, depth: (state, depth[:71]),
    "depth-type": lambda state, depth: (state, depth.astype(np.uint16)),
    "depth-masked": lambda state, depth: (state, np.ma.masked_array(depth)),
}
