"""Solids that tracks are made of, independent of any simulator."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deploy_kit.sim.rotations import Array, matrix_from_quaternion
from deploy_kit.task.tracks import SolidKind


@dataclass(frozen=True)
class Primitive:
    """A solid at a fixed pose.

    Attributes:
        kind: shape.
        size: box: three half extents; sphere: radius; cylinder and capsule: radius, half length along local z (for a
            capsule without the caps); m.
        position: centre in the world frame, m.
        quaternion: attitude, local to world.
        role: what it is part of.
    """

    kind: SolidKind
    size: tuple[float, ...]
    position: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    role: Literal["gate", "obstacle"] = "obstacle"

    @property
    def bounding_radius(self) -> float:
        """Radius of the sphere around the centre that holds the solid, m."""
        if self.kind == "capsule":
            return self.size[0] + self.size[1]
        return float(np.linalg.norm(self.size))

    def distance(self, point: Sequence[float] | Array) -> float:
        """Return the signed distance of a world point to the surface, m, negative inside."""
        offset = np.asarray(point, float) - np.asarray(self.position)
        local = offset @ matrix_from_quaternion(np.asarray(self.quaternion))
        if self.kind == "sphere":
            return float(np.linalg.norm(local) - self.size[0])
        if self.kind == "capsule":
            local[2] -= np.clip(local[2], -self.size[1], self.size[1])
            return float(np.linalg.norm(local) - self.size[0])
        if self.kind == "cylinder":
            local = np.array([np.hypot(local[0], local[1]), local[2]])
        excess = np.abs(local) - np.asarray(self.size)
        return float(np.linalg.norm(np.maximum(excess, 0.0)) + min(excess.max(), 0.0))
