"""Random rotations."""

import numpy as np


def random_quaternion(rng: np.random.Generator) -> np.ndarray:
    """Return a quaternion (w, x, y, z) drawn uniformly over all rotations."""
    quaternion = rng.normal(size=4)
    return quaternion / np.linalg.norm(quaternion)
