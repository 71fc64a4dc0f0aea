"""Flights as a recording for Rerun's viewer (``.rrd``): scene, drone, camera with depth, commands, gate probability."""

import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit.errors import MissingDependencyError, OptionError
from deploy_kit.files import replace_file
from deploy_kit.flight.pictures.widget import ShownFlight
from deploy_kit.flight.solids import surface_of
from deploy_kit.flight.viewers.camera import camera_pose
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS
from deploy_kit.task.racing import RACING_TASK

TIMELINE = "flight"
"""Name of the timeline: seconds since the flight's first step."""

_GATE, _OBSTACLE = (29, 111, 184), (120, 130, 140)


def require_rerun(path: Path) -> None:
    """Check, before a flight, that it can be recorded.

    Raises:
        OptionError: the name does not end in ``.rrd``.
        MissingDependencyError: rerun-sdk is not installed.
    """
    if path.suffix != ".rrd":
        raise OptionError(f"--rerun {path}: a recording's name must end in .rrd")
    try:
        import rerun  # noqa: F401  # whether it is there is all that is asked
    except ImportError as error:
        raise MissingDependencyError("--rerun needs rerun-sdk; pip install 'deploy-kit[rerun]'") from error


def write_recording(
    path: Path, flights: Sequence[ShownFlight], image_shape: tuple[int, int], threshold: float | None
) -> None:
    """Write flights into one recording, each under a path of its own.

    Args:
        path: target, replaced atomically.
        flights: what to record.
        image_shape: (rows, columns) of the depth image.
        threshold: of the gate probability, None if unknown.

    Raises:
        InputError: the file cannot be written.
    """

    def write(temporary: Path) -> None:
        import rerun as rr

        recording = rr.RecordingStream("deploy-kit flight", recording_id=uuid.uuid4())
        recording.save(temporary)
        for index, flight in enumerate(flights):
            _log_flight(recording, f"flight_{index}_env_{flight.trace.env}", flight, image_shape, threshold)
        recording.flush()
        recording.disconnect()

    replace_file(path, write)


def _log_flight(
    recording: Any, root: str, flight: ShownFlight, image_shape: tuple[int, int], threshold: float | None
) -> None:
    import rerun as rr

    trace, camera = flight.trace, RACING_TASK.camera
    rows, columns = image_shape
    recording.log(root, rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    recording.log(f"{root}/about", rr.TextDocument(f"{flight.name}. {flight.about}"), static=True)
    time = rr.TimeColumn(TIMELINE, duration=trace.time)
    if trace.position:
        _log_scene(recording, root, flight)
        position = np.stack(trace.position)
        attitude = np.stack(trace.quaternion) if trace.quaternion else np.tile([1.0, 0.0, 0.0, 0.0], (len(position), 1))
        poses = [camera_pose(p, q) for p, q in zip(position, attitude, strict=True)]
        turned = np.stack([q for _, q in poses])
        for name, points, quaternions in (
            ("drone", position, attitude),
            ("camera", np.stack([p for p, _ in poses]), turned),
        ):
            transforms = rr.Transform3D.columns(translation=points, quaternion=quaternions[:, [1, 2, 3, 0]])
            recording.send_columns(f"{root}/{name}", [time], transforms)
        recording.log(
            f"{root}/drone/body", rr.Points3D([[0.0, 0.0, 0.0]], radii=0.1, colors=(200, 40, 40)), static=True
        )
        recording.send_columns(f"{root}/height", [time], rr.Scalars.columns(scalars=position[:, 2]))
        recording.send_columns(f"{root}/speed", [time], rr.Scalars.columns(scalars=trace.speed))
    intrinsics = [[camera.fx, 0.0, camera.cx], [0.0, camera.fy, camera.cy], [0.0, 0.0, 1.0]]
    pinhole = rr.Pinhole(image_from_camera=intrinsics, resolution=[columns, rows], image_plane_distance=0.6)
    recording.log(f"{root}/camera", pinhole, static=True)
    for step, depth in enumerate(trace.depth):
        recording.set_time(TIMELINE, duration=step * trace.policy_period)
        metres = np.nan_to_num(np.asarray(depth, np.float32)).clip(0.0, 1.0).reshape(rows, columns) * camera.max_range
        millimetres = np.round(1000.0 * metres).astype(np.uint16)
        depth_range = (0.0, 1000.0 * camera.max_range)
        recording.log(f"{root}/camera/depth", rr.DepthImage(millimetres, meter=1000.0, depth_range=depth_range))
    _log_policy(recording, root, flight, time, threshold)


def _log_policy(recording: Any, root: str, flight: ShownFlight, time: Any, threshold: float | None) -> None:
    import rerun as rr

    trace = flight.trace
    commands = np.asarray(flight.transform.apply(np.stack(trace.action)), np.float64)
    for name, unit, values in zip(ACTION_NAMES, ACTION_UNITS, commands.T, strict=True):
        recording.log(f"{root}/command/{name}", rr.SeriesLines(names=f"{name} ({unit})"), static=True)
        recording.send_columns(f"{root}/command/{name}", [time], rr.Scalars.columns(scalars=values))
    recording.send_columns(f"{root}/gate/passed", [time], rr.Scalars.columns(scalars=np.array(trace.passed, float)))
    if trace.probability:
        recording.send_columns(f"{root}/gate/probability", [time], rr.Scalars.columns(scalars=trace.probability))
    if threshold is not None:
        constant = np.full(len(trace.action), threshold)
        recording.send_columns(f"{root}/gate/threshold", [time], rr.Scalars.columns(scalars=constant))


def _log_scene(recording: Any, root: str, flight: ShownFlight) -> None:
    import rerun as rr

    trace = flight.trace
    recording.log(f"{root}/path", rr.LineStrips3D([np.stack(trace.position)], radii=0.02), static=True)
    if trace.track is None:
        return
    for role, colour in (("gate", _GATE), ("obstacle", _OBSTACLE)):
        surface = surface_of([solid for solid in trace.track.primitives if solid.role == role])
        if len(surface.faces):
            mesh = rr.Mesh3D(
                vertex_positions=surface.vertices,
                triangle_indices=surface.faces,
                albedo_factor=colour,
            )
            recording.log(f"{root}/track/{role}s", mesh, static=True)
    numbers = [str(index) for index in range(1, len(trace.track.gate_positions) + 1)]
    recording.log(
        f"{root}/track/numbers", rr.Points3D(trace.track.gate_positions, radii=0.03, labels=numbers), static=True
    )
