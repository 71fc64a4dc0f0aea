"""The depth camera's numbers for the contract: from the run's `params/env.yaml`, else from the named task."""

import math
from collections.abc import Mapping
from typing import Any

from deploy_kit.export.contract import CameraSpec
from deploy_kit.policy.interface import ObservationLayout
from deploy_kit.policy.params import RunParams
from deploy_kit.policy.vehicle import RACING_TASK
from deploy_kit.policy.vehicle_env import ENV_FILE

_MODEL = "pinhole; ray of pixel (u, v), column and row from the top left, passes through (u + 0.5, v + 0.5)"

_PATTERN_KEYS = (
    *("width", "height", "focal_length", "horizontal_aperture", "vertical_aperture"),
    *("horizontal_aperture_offset", "vertical_aperture_offset"),
)


def resolve_camera(params: RunParams, task: str | None, layout: ObservationLayout) -> CameraSpec | None:
    """Return the camera, None where neither the run nor the task says.

    Args:
        params: the run's parameters.
        task: task id, as given with ``--task``.
        layout: image shape of the policy; a camera of another shape is not the policy's.
    """
    camera = None if params.env is None else _from_env(params.env)
    if camera is None and task == RACING_TASK:
        camera = CameraSpec(
            _MODEL,
            96,
            72,
            58.344,
            58.344,
            47.556,
            36.299,
            position_m=(0.04, 0.0, 0.0),
            pitch_up_deg=15.06,
            source="task",
        )
    if camera is None or (camera.height, camera.width) != layout.image_shape:
        return None
    return camera


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
