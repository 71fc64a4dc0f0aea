"""The depth camera's numbers for the contract: from the run's `params/env.yaml`, else from the task."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.vehicle import CHECKPOINT, TASK, recorded_task
from deploy_kit.policy.run.vehicle_env import ENV_FILE
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.task.racing import RACING_TASK, TASK_ID

_MODEL = "pinhole; ray of pixel (u, v), column and row from the top left, passes through (u + 0.5, v + 0.5)"

_PATTERN_KEYS = (
    *("width", "height", "focal_length", "horizontal_aperture", "vertical_aperture"),
    *("horizontal_aperture_offset", "vertical_aperture_offset"),
)


@dataclass(frozen=True)
class CameraSpec:
    """Pinhole depth camera.

    Attributes:
        model: projection model and pixel convention.
        width: columns.
        height: rows.
        fx: focal length, pixels.
        fy: focal length, pixels.
        cx: principal point, pixels from the left edge.
        cy: principal point, pixels from the top edge.
        position_m: in the body frame, m; None where the source does not say.
        pitch_up_deg: upward tilt of the optical axis, degrees.
        source: where the numbers came from.
    """

    model: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    position_m: tuple[float, float, float] | None
    pitch_up_deg: float
    source: str


def resolve_camera(params: RunParams, task: str | None, layout: ObservationLayout) -> CameraSpec | None:
    """Return the camera, None where neither the run nor the task says.

    Args:
        params: the run's parameters, and the task recorded in the checkpoint.
        task: task id, as given with ``--task``.
        layout: image shape of the policy; a camera of another shape is not the policy's.
    """
    camera = None if params.env is None else _from_env(params.env)
    recorded = recorded_task(params)
    if camera is None and TASK_ID in (recorded, task):
        camera = _of_racing_task(CHECKPOINT if recorded == TASK_ID else TASK)
    if camera is None or (camera.height, camera.width) != layout.image_shape:
        return None
    return camera


def _of_racing_task(source: str) -> CameraSpec:
    camera = RACING_TASK.camera
    return CameraSpec(
        _MODEL,
        camera.width,
        camera.height,
        camera.fx,
        camera.fy,
        camera.cx,
        camera.cy,
        position_m=camera.position,
        pitch_up_deg=camera.pitch_up_deg,
        source=source,
    )


def _from_env(env: Mapping[str, Any]) -> CameraSpec | None:
    """Read Isaac Lab's pinhole pattern, by the formulas of its `pinhole_camera_pattern`.

    The sensor's offset is relative to a link of the robot's asset, which the dump does not hold, so the position in the
    body frame stays unknown.
    """
    scene = env.get("scene")
    sensors = scene.values() if isinstance(scene, dict) else ()
    patterns = [
        (sensor["pattern_cfg"], sensor.get("offset"))
        for sensor in sensors
        if isinstance(sensor, dict)
        and isinstance(sensor.get("pattern_cfg"), dict)
        and "focal_length" in sensor["pattern_cfg"]
    ]
    if len(patterns) != 1:
        return None
    pattern, offset = patterns[0]
    values = [pattern.get(name) for name in _PATTERN_KEYS]
    pitch = _pitch_up(offset)
    if pitch is None or any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return None
    width, height, focal, aperture_x, aperture_y, offset_x, offset_y = map(float, values)
    if min(width, height, focal, aperture_x, aperture_y) <= 0:
        return None
    fx, fy = width * focal / aperture_x, height * focal / aperture_y
    return CameraSpec(
        _MODEL,
        int(width),
        int(height),
        fx,
        fy,
        offset_x * fx + width / 2,
        offset_y * fy + height / 2,
        position_m=None,
        pitch_up_deg=pitch,
        source=ENV_FILE,
    )


def _pitch_up(offset: Any) -> float | None:
    """Return the upward tilt in degrees of a rotation about body y, in Isaac Lab's "world" convention."""
    if not isinstance(offset, dict) or offset.get("convention") != "world":
        return None
    rotation = offset.get("rot")
    if not isinstance(rotation, (list, tuple)) or len(rotation) != 4:
        return None
    w, x, y, z = rotation
    return math.degrees(-2.0 * math.atan2(y, w)) if x == z == 0 and w > 0 else None
