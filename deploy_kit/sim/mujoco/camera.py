"""The depth camera: what it sees of a track's solids, frame by frame."""

from dataclasses import dataclass

import mujoco
import numpy as np
import numpy.typing as npt

from deploy_kit.sim.mujoco.depth.kernel import (
    BOUND,
    KIND,
    POSITION,
    ROTATION,
    SIZE,
    SOLID_COLUMNS,
    draw_frames,
)
from deploy_kit.sim.rotations import Array
from deploy_kit.task.racing import Camera


def camera_axes(camera: Camera) -> Array:
    """Return the rotation from camera axes (x along the optical axis, y left, z up) to body axes."""
    cos, sin = np.cos(camera.tilt), np.sin(camera.tilt)
    return np.array([[cos, 0.0, -sin], [0.0, 1.0, 0.0], [sin, 0.0, cos]])


def ray_slopes(camera: Camera) -> tuple[Array, Array]:
    """Return how far rays through pixel centres go left per column, and up per row, for 1 m along the optical axis."""
    left: Array = (camera.cx - 0.5 - np.arange(camera.width, dtype=np.float64)) / camera.fx
    up: Array = (camera.cy - 0.5 - np.arange(camera.height, dtype=np.float64)) / camera.fy
    return left, up


def ray_directions(camera: Camera) -> Array:
    """Return one ray a pixel in body axes, shape (rows · columns, 3), row-major, top row first.

    Rays are scaled so that their component along the optical axis is 1: a hit's ray parameter is its depth.
    """
    left, up = np.meshgrid(*ray_slopes(camera))
    rays = np.stack([np.ones_like(left), left, up], axis=-1).reshape(-1, 3)
    return np.ascontiguousarray(rays @ camera_axes(camera).T)


@dataclass(frozen=True, eq=False)
class SolidTable:
    """The solids at rest of one model but the ground, the plane z = 0, which the kernel knows.

    Attributes:
        rows: one row a solid, with the columns that the kernel names, shape (G, SOLID_COLUMNS).
    """

    rows: Array

    @classmethod
    def from_model(cls, model: mujoco.MjModel) -> "SolidTable":
        """Return the solids of the model's world body, of which geom 0 is the ground."""
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        geoms = np.flatnonzero(model.geom_bodyid == 0)[1:]
        rows = np.empty((len(geoms), SOLID_COLUMNS))
        rows[:, KIND] = model.geom_type[geoms]
        rows[:, SIZE:BOUND] = model.geom_size[geoms]
        rows[:, BOUND] = model.geom_rbound[geoms]
        rows[:, POSITION:ROTATION] = data.geom_xpos[geoms]
        rows[:, ROTATION:] = data.geom_xmat[geoms]
        return cls(rows)


class DepthCameras:
    """The depth cameras of many environments.

    Args:
        num_envs: environments.
        camera: intrinsics and mounting.

    Attributes:
        depth: last frames, m, clipped to the camera's range, shape (N, rows, columns).
    """

    def __init__(self, num_envs: int, camera: Camera) -> None:
        self._position, self._axes = np.array(camera.position), camera_axes(camera)
        self._lens = np.array([camera.fx, camera.fy, camera.cx, camera.cy, camera.max_range])
        self._columns, self._rows = ray_slopes(camera)
        self._solids = np.zeros((num_envs, 0, SOLID_COLUMNS))
        self._counts = np.zeros(num_envs, np.int64)
        self._eyes, self._cameras = np.zeros((num_envs, 3)), np.zeros((num_envs, 3, 3))
        self.depth = np.zeros((num_envs, camera.height, camera.width), np.float32)

    def place(self, index: int, solids: SolidTable) -> None:
        """Show a camera other solids."""
        count = len(solids.rows)
        if count > self._solids.shape[1]:
            room = np.zeros((len(self._solids), count, SOLID_COLUMNS))
            room[:, : self._solids.shape[1]] = self._solids
            self._solids = room
        self._solids[index, :count], self._counts[index] = solids.rows, count

    def move(self, position: Array, rotation: Array) -> None:
        """Move the drones that carry the cameras.

        Args:
            position: of the drones' centres, world frame, m, shape (N, 3).
            rotation: body to world, shape (N, 3, 3).
        """
        np.matmul(rotation, self._axes, out=self._cameras)
        np.add(position, rotation @ self._position, out=self._eyes)

    def capture(
        self, wanted: npt.NDArray[np.bool_], first: int, end: int, images: npt.NDArray[np.float32], start: int
    ) -> None:
        """Capture the frames that are wanted of some environments.

        Args:
            wanted: which environments want one, shape (N,).
            first: first environment.
            end: the one after the last.
            images: where to write depth over range, besides `depth`, shape (N, start + pixels).
            start: column of `images` where a frame begins.
        """
        draw_frames(
            wanted,
            first,
            end,
            self._solids,
            self._counts,
            self._eyes,
            self._cameras,
            self._lens,
            self._columns,
            self._rows,
            self.depth,
            images,
            start,
        )
