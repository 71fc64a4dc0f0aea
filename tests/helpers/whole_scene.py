"""Depth as MuJoCo's own rays see it: the oracle of the compiled camera."""

import mujoco
import numpy as np

from deploy_kit.sim.mujoco.camera import DepthCameras, SolidTable, ray_directions
from deploy_kit.sim.mujoco.scene import DRONE, build_model
from deploy_kit.sim.rotations import Array
from deploy_kit.sim.tracks import Track
from deploy_kit.task.racing import RACING_TASK, Camera


def compiled_frame(solids: SolidTable, position: Array, rotation: Array, camera: Camera = RACING_TASK.camera) -> Array:
    """Return a frame of the compiled camera, m, shape (rows · columns,), float32."""
    cameras = DepthCameras(1, camera)
    cameras.depth[:] = np.nan
    cameras.place(0, solids)
    cameras.move(position[None], rotation[None])
    cameras.capture(np.ones(1, np.bool_), 0, 1, np.empty((1, camera.width * camera.height), np.float32), 0)
    return cameras.depth.reshape(-1)


class WholeScene:
    """One track whose solids all are tried by every ray.

    Args:
        track: gates and obstacles.
        camera: intrinsics and mounting.

    Attributes:
        model: model of the track.
        solids: what the compiled camera takes.
    """

    def __init__(self, track: Track, camera: Camera = RACING_TASK.camera) -> None:
        self.model = build_model(track, RACING_TASK)
        self.solids = SolidTable.from_model(self.model)
        self._data = mujoco.MjData(self.model)
        mujoco.mj_kinematics(self.model, self._data)
        self._drone = int(self.model.body(DRONE).id)
        self._camera = camera
        self._directions = ray_directions(camera)

    def eye(self, position: Array, rotation: Array) -> Array:
        """Return the optical centre in the world frame, m."""
        return position + rotation @ np.array(self._camera.position)

    def depth(self, position: Array, rotation: Array, turn: Array | None = None) -> Array:
        """Return the depth of every pixel, m, shape (rows · columns,), float64.

        Args:
            position: of the drone's centre, world frame, m.
            rotation: body to world.
            turn: added to the rays' directions in body axes, shape (3,).
        """
        directions = self._directions if turn is None else self._directions + turn
        rays, count = np.ascontiguousarray(directions @ rotation.T).reshape(-1), len(directions)
        hits, ids, reach = np.empty(count), np.empty(count, np.int32), self._camera.max_range
        cutoff = 1.01 * reach * float(np.linalg.norm(directions, axis=1).max())
        eye = self.eye(position, rotation)
        mujoco.mj_multiRay(self.model, self._data, eye, rays, None, True, self._drone, ids, hits, None, count, cutoff)
        return np.minimum(np.where(hits < 0, reach, hits), reach)
