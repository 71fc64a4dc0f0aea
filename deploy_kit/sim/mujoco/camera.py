"""The depth camera: rays through pixel centres against the model's solids."""

import mujoco
import numpy as np
import numpy.typing as npt

from deploy_kit.sim.rotations import Array
from deploy_kit.sim.task import Camera


def ray_directions(camera: Camera) -> Array:
    """Return one ray a pixel in body axes, shape (rows · columns, 3), row-major, top row first.

    Rays are scaled so that their component along the optical axis is 1: a hit's ray parameter is its depth.
    """
    column, row = np.meshgrid(np.arange(camera.width) + 0.5, np.arange(camera.height) + 0.5)
    rays = np.stack(
        [np.ones_like(column), -(column - camera.cx) / camera.fx, -(row - camera.cy) / camera.fy], axis=-1
    ).reshape(-1, 3)
    cos, sin = np.cos(camera.tilt), np.sin(camera.tilt)
    upwards = np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])
    return np.ascontiguousarray(rays @ upwards.T)


class DepthCamera:
    """Captures depth frames of one environment after the other; one instance a thread.

    Args:
        camera: intrinsics and mounting.
    """

    def __init__(self, camera: Camera) -> None:
        self._directions = ray_directions(camera)
        self._position = np.array(camera.position)
        self._range = camera.max_range
        self._cutoff = camera.max_range * float(np.linalg.norm(self._directions, axis=1).max())
        count = len(self._directions)
        self._rays = np.empty((count, 3))
        self._hits = np.empty(count)
        self._ids = np.empty(count, np.int32)

    def capture(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        drone_body: int,
        position: Array,
        rotation: Array,
        out: npt.NDArray[np.float32],
    ) -> None:
        """Write the depth in m, clipped to the camera's range, of every pixel to `out`, shape (rows · columns,).

        Args:
            model: scene.
            data: its state; only the poses of solids at rest are read from it.
            drone_body: body that the camera does not see.
            position: of the drone's centre, world frame, m.
            rotation: body to world, shape (3, 3).
            out: where to write.
        """
        np.matmul(self._directions, rotation.T, out=self._rays)
        origin = position + rotation @ self._position
        hits = self._hits
        mujoco.mj_multiRay(
            model,
            data,
            origin,
            self._rays.reshape(-1),
            None,
            True,
            drone_body,
            self._ids,
            hits,
            None,
            len(hits),
            self._cutoff,
        )
        hits[hits < 0] = self._range
        np.minimum(hits, self._range, out=out, casting="same_kind")
