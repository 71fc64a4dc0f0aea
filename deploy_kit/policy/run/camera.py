"""The depth camera's numbers for the contract: from the run's `params/env.yaml`, else from the task."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deploy_kit.errors import CheckpointError, OptionError
from deploy_kit.policy.run.env_file import ENV_FILE, finite, mapping
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.vehicle import ASSUMED, named_task
from deploy_kit.policy.run.vehicle_env import policy_camera
from deploy_kit.task.interface import ObservationLayout
from deploy_kit.task.racing import RACING_TASK, TASK_ID

logger = logging.getLogger(__name__)

BODY = "body"
"""Link of a mount on the vehicle's body itself."""

_MODEL = "pinhole; ray of pixel (u, v), column and row from the top left, passes through (u + 0.5, v + 0.5)"

_HINT = "correct it there, or remove the camera from it to leave it out of the contract"


@dataclass(frozen=True)
class CameraMount:
    """Place and attitude of the camera relative to a link of the vehicle.

    Attributes:
        link: "body", or the path of a link whose own place on the body the source does not tell.
        position_m: optical centre in the link's axes, x forward, y left, z up, m; None where unknown.
        position_source: where it comes from; "assumed" for deploy-kit's assumption.
        pitch_up_deg: elevation of the optical axis above the link's x, degrees; None where it is no pure pitch.
        pitch_source: where it comes from.
    """

    link: str
    position_m: tuple[float, float, float] | None
    position_source: str | None
    pitch_up_deg: float | None
    pitch_source: str | None


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
        source: where the numbers above come from.
        mount: where it sits.
    """

    model: str
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    source: str
    mount: CameraMount


def resolve_camera(params: RunParams, task: str | None, layout: ObservationLayout) -> CameraSpec | None:
    """Return the camera, None where neither the run nor the task says.

    A camera in the run's file decides: where its projection is not understood the contract has none, and a warning says
    so, whatever the task.

    Args:
        params: the run's parameters, and the task recorded in the checkpoint.
        task: task id, as given with ``--task``.
        layout: image shape of the policy.

    Raises:
        CheckpointError: the run's camera has other pixels than the policy's image, or numbers that are none.
        OptionError: run and task contradict each other.
    """
    known, source = named_task(params, task)
    of_task = _of_racing_task(source) if known == TASK_ID else None
    if params.env is None:
        return None if of_task is None or not _fits(of_task, layout) else of_task
    try:
        found = policy_camera(params.env)
    except CheckpointError as error:
        logger.warning("the contract has no camera: %s", error)
        return None
    if found is None:
        return None if of_task is None or not _fits(of_task, layout) else of_task
    name, sensor = found
    camera = _from_sensor(f"{ENV_FILE}: scene.{name}", sensor, mapping(params.env, "scene", "robot").get("prim_path"))
    if camera is None:
        logger.warning(
            "the contract has no camera: %s: scene.%s is no pinhole camera that deploy-kit knows", ENV_FILE, name
        )
        return None
    if not _fits(camera, layout):
        rows, columns = layout.image_shape
        raise CheckpointError(
            f"{ENV_FILE}: scene.{name} has {camera.height} x {camera.width} pixels, this policy's image {rows} x "
            f"{columns}; give the checkpoint of this run"
        )
    if of_task is not None and not _same_projection(camera, of_task):
        raise OptionError(
            f"camera: {ENV_FILE} says {_numbers(camera)}, but {source} {known} says {_numbers(of_task)}; "
            "leave out --task"
        )
    return camera


def _fits(camera: CameraSpec, layout: ObservationLayout) -> bool:
    return (camera.height, camera.width) == layout.image_shape


def _numbers(camera: CameraSpec) -> str:
    return f"fx {camera.fx:.6g}, fy {camera.fy:.6g}, cx {camera.cx:.6g}, cy {camera.cy:.6g}"


def _same_projection(a: CameraSpec, b: CameraSpec) -> bool:
    """Return whether every pixel's ray is the same to a thousandth of a pixel: apertures are rounded in files."""
    names = ("fx", "fy", "cx", "cy")
    return all(math.isclose(getattr(a, name), getattr(b, name), abs_tol=1e-3) for name in names)


def _of_racing_task(source: str) -> CameraSpec:
    camera = RACING_TASK.camera
    # MasterRacing's camera sits on a link whose place on the body is in a file that was not published.
    mount = CameraMount(BODY, camera.position, ASSUMED, camera.pitch_up_deg, ASSUMED)
    return CameraSpec(
        _MODEL,
        camera.width,
        camera.height,
        camera.fx,
        camera.fy,
        camera.cx,
        camera.cy,
        source=source,
        mount=mount,
    )


def _from_sensor(where: str, sensor: Mapping[str, Any], robot: Any) -> CameraSpec | None:
    """Read a ray caster's pinhole pattern, by the formulas of Isaac Lab's `pinhole_camera_pattern`, or a USD camera."""
    pattern, spawn = mapping(sensor, "pattern_cfg"), mapping(sensor, "spawn")
    lens, size = (pattern, pattern) if "focal_length" in pattern else (spawn, sensor)
    if "focal_length" not in lens:
        return None
    width, height = (_positive(where, size, name) for name in ("width", "height"))
    focal, aperture_x = (_positive(where, lens, name) for name in ("focal_length", "horizontal_aperture"))
    # Isaac Lab takes square pixels where no vertical aperture is given.
    square = lens.get("vertical_aperture") is None
    aperture_y = aperture_x * height / width if square else _positive(where, lens, "vertical_aperture")
    offset_x, offset_y = (_number(where, lens, f"{side}_aperture_offset") for side in ("horizontal", "vertical"))
    fx, fy = width * focal / aperture_x, height * focal / aperture_y
    return CameraSpec(
        _MODEL,
        int(width),
        int(height),
        fx,
        fy,
        offset_x * fx + width / 2,
        offset_y * fy + height / 2,
        source=where,
        mount=_mount(where, sensor, robot),
    )


def _positive(where: str, values: Mapping[str, Any], name: str) -> float:
    number = finite(values.get(name))
    if number is None or number <= 0:
        raise CheckpointError(f"{where}: {name} is {values.get(name)!r}, not a number above 0; {_HINT}")
    return number


def _number(where: str, values: Mapping[str, Any], name: str) -> float:
    number = finite(values.get(name, 0.0))
    if number is None:
        raise CheckpointError(f"{where}: {name} is {values[name]!r}, not a number; {_HINT}")
    return number


def _mount(where: str, sensor: Mapping[str, Any], robot: Any) -> CameraMount:
    path, offset = str(sensor.get("prim_path", "")), mapping(sensor, "offset")
    position = offset.get("pos")
    numbers = [finite(item) for item in position] if isinstance(position, (list, tuple)) else []
    known = tuple(number for number in numbers if number is not None)
    pitch = _pitch_up(offset)
    return CameraMount(
        link=BODY if path and path == robot else path.removeprefix(f"{robot}/") or "unknown",
        position_m=(known[0], known[1], known[2]) if len(known) == len(numbers) == 3 else None,
        position_source=f"{where}.offset" if len(known) == len(numbers) == 3 else None,
        pitch_up_deg=pitch,
        pitch_source=None if pitch is None else f"{where}.offset",
    )


def _pitch_up(offset: Mapping[str, Any]) -> float | None:
    """Return the upward tilt in degrees of a rotation about y, in Isaac Lab's "world" convention.

    Isaac Lab writes quaternions (w, x, y, z) up to version 2 and (x, y, z, w) from 3 on; a pitch is one in one of the
    two orders alone.
    """
    rotation = offset.get("rot")
    numbers = [finite(item) for item in rotation] if isinstance(rotation, (list, tuple)) else []
    if offset.get("convention") != "world" or len(numbers) != 4 or None in numbers:
        return None
    first, second, third, last = (number or 0.0 for number in numbers)
    for w, x, y, z in ((first, second, third, last), (last, first, second, third)):
        if x == z == 0 and w > 0:
            return math.degrees(-2.0 * math.atan2(y, w))
    return None
