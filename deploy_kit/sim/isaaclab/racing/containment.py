"""Which drones without colliders are in a solid.

The torch twin of `deploy_kit.sim.rules.containment`; a test holds the two together.
"""

import torch
from torch import Tensor

from deploy_kit.sim.rules.containment import KINDS, SolidArrays
from deploy_kit.task.racing import Task


class Solids:
    """The solids of a pool's tracks.

    Args:
        arrays: in the tracks' frames.
        task: numbers.
        device: where to keep them.
    """

    def __init__(self, arrays: SolidArrays, task: Task, device: str) -> None:
        def tensor(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float32, device=device)

        self._size, self._position, self._rotation = map(tensor, (arrays.size, arrays.position, arrays.rotation))
        self._kind = torch.as_tensor(arrays.kind, dtype=torch.long, device=device)
        self._offsets = tensor(task.body_points.offsets)
        self._reach = tensor(arrays.bound) + torch.linalg.norm(self._offsets, dim=-1).max()
        self._limit = task.body_points.limit

    def hold(self, position: Tensor, rotation: Tensor, track: Tensor) -> Tensor:
        """Return which drones have at least as many body points in solids or the ground as count as a collision, (N,).

        Args:
            position: in the tracks' frames, m, (N, 3).
            rotation: body to world, (N, 3, 3).
            track: index of each drone's track, (N,).
        """
        points = position[:, None] + self._offsets @ rotation.transpose(1, 2)
        inside = (points[..., 2] < 0).int()
        near = torch.linalg.norm(self._position[track] - position[:, None], dim=-1) <= self._reach[track]
        drone, column = near.nonzero(as_tuple=True)
        row = track[drone]
        local = (points[drone] - self._position[row, column, None]) @ self._rotation[row, column]
        within = _within(local.abs(), self._kind[row, column], self._size[row, column])
        inside.index_add_(0, drone, within.int())
        return (inside > 0).sum(dim=1) >= self._limit


def _within(local: Tensor, kind: Tensor, size: Tensor) -> Tensor:
    """Return whether points (M, K, 3), absolute coordinates in solids' axes, lie in the solids, (M, K)."""
    along, across = local[..., 2], torch.linalg.norm(local[..., :2], dim=-1)
    radius, half = size[:, None, 0], size[:, None, 1]
    ways = {
        "box": (local < size[:, None]).all(dim=-1),
        "sphere": torch.hypot(across, along) < radius,
        "cylinder": (across < radius) & (along < half),
        "capsule": torch.hypot(across, (along - half).clamp(min=0)) < radius,
    }
    return torch.stack([ways[name] for name in KINDS]).gather(0, kind[None, :, None].expand(1, -1, local.shape[1]))[0]
