"""Flights as data for the page that shows them in 3D, from the camera and over time."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image
from scipy.spatial import ConvexHull

from deploy_kit.flight.passages import ThresholdSweep
from deploy_kit.flight.solids import surface_of
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.page.blocks import Widget
from deploy_kit.sim.tracks import Track
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform
from deploy_kit.task.racing import RACING_TASK, Camera

MOST_IMAGES = 1200
"""Depth images in a page at most; a longer flight shows every second one, every third one, …"""

_IMAGE_QUALITY = 70
_FRUSTUM_LENGTH = 0.9
"""How far the drawn edges of the camera's view reach, m."""
_FRAME_WIDTH = 0.2
_MARGIN = 1.2


@dataclass(frozen=True)
class ShownFlight:
    """A flight with its name on the page.

    Attributes:
        name: name for the choice among flights.
        about: one sentence about it.
        trace: what happened.
        transform: transform from the policy's raw action to physical units.
    """

    name: str
    about: str
    trace: FlightTrace
    transform: ActionTransform


def flight_widget(flights: Sequence[ShownFlight], image_shape: tuple[int, int], threshold: float | None) -> Widget:
    """Return the part of a page that shows flights.

    Args:
        flights: at least one.
        image_shape: (rows, columns) of the depth image.
        threshold: threshold of the gate probability, None if unknown.
    """
    period = flights[0].trace.policy_period
    commands = np.concatenate([_commands(flight) for flight in flights])
    data = {
        "period": period,
        "image": list(image_shape),
        "colours": (colormaps["turbo_r"](np.linspace(0, 1, 256))[:, :3] * 255).astype(int).ravel().tolist(),
        "threshold": threshold,
        "camera": _camera(RACING_TASK.camera),
        "commands": [
            {
                "name": name.replace("_", " "),
                "unit": unit,
                "low": _rounded(float(np.nanmin(values, initial=0.0))),
                "high": _rounded(float(np.nanmax(values, initial=1e-6))),
            }
            for name, unit, values in zip(ACTION_NAMES, ACTION_UNITS, commands.T, strict=True)
        ],
        "flights": [_flight(flight, image_shape) for flight in flights],
    }
    return Widget("flight", data, "a flight in 3D, from the drone's camera and over time")


def threshold_widget(sweep: ThresholdSweep) -> Widget:
    """Return the part of a page where the reader drags the gate's threshold."""
    return Widget("threshold", asdict(sweep), "gate passages found against false alarms, by threshold")


def _commands(flight: ShownFlight) -> npt.NDArray[np.float64]:
    return np.asarray(flight.transform.apply(np.stack(flight.trace.action)), np.float64)


def _flight(flight: ShownFlight, image_shape: tuple[int, int]) -> dict[str, Any]:
    trace = flight.trace
    position = np.stack(trace.position) if trace.position else None
    return {
        "name": flight.name,
        "about": flight.about,
        "position": None if position is None else _columns(position, 3),
        "quaternion": _columns(np.stack(trace.quaternion), 4) if trace.quaternion else None,
        "distance": None if position is None else _distance(position),
        "speed": _numbers(np.array(trace.speed), 3) if trace.speed else None,
        "probability": [float(f"{p:.4g}") if math.isfinite(p) else None for p in trace.probability] or None,
        "command": _columns(_commands(flight), 3),
        "passed": trace.pass_steps.tolist(),
        "crashed": trace.crashed,
        "end": "crash" if trace.crashed else "end",
        "track": None if trace.track is None else _track(trace.track),
        "ground": None if position is None else _ground(trace.track, position),
        "depth": _depth_sheet(trace.depth, image_shape),
    }


def _ground(track: Track | None, position: npt.NDArray[np.float64]) -> list[list[float | None]]:
    """Return the corners of the ground to draw, (2, n): the convex hull of track and flight, with a margin, m."""
    points = position[:, :2]
    if track is not None:
        points = np.vstack([points, [p.position[:2] for p in track.primitives], track.gate_positions[:, :2]])
    points = points[np.isfinite(points).all(axis=1)]
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    around = _MARGIN * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    widened = (points[:, None] + around).reshape(-1, 2)
    return _columns(widened[ConvexHull(widened).vertices], 2)


def _track(track: Track) -> dict[str, Any]:
    solids = {role: [p for p in track.primitives if p.role == role] for role in ("gate", "obstacle")}
    across = np.stack([-np.sin(track.gate_yaws), np.cos(track.gate_yaws)], axis=1)
    half = (track.gate_sizes[:, :1] / 2 + _FRAME_WIDTH) * across
    centre = track.gate_positions[:, :2]
    return {
        "gates": _mesh(solids["gate"]),
        "obstacles": _mesh(solids["obstacle"]),
        "centres": _columns(track.gate_positions, 3),
        # Numbers stand above the frames.
        "tops": _numbers(track.gate_sizes[:, 1] / 2 + 2 * _FRAME_WIDTH, 3),
        "bars": [[_numbers(a, 3), _numbers(b, 3)] for a, b in zip(centre - half, centre + half, strict=True)],
    }


def _mesh(primitives: Sequence[Any]) -> dict[str, Any]:
    surface = surface_of(primitives)
    return {"vertices": _columns(surface.vertices, 3), "faces": surface.faces.T.tolist()}


def _camera(camera: Camera) -> dict[str, Any]:
    """Return the corners of the camera's view at a short distance, in the body frame (x forward, y left, z up), m."""
    cos, sin = math.cos(camera.tilt), math.sin(camera.tilt)
    corners = []
    for column, row in ((0, 0), (camera.width, 0), (camera.width, camera.height), (0, camera.height)):
        left, up = (camera.cx - column) / camera.fx, (camera.cy - row) / camera.fy
        forward = np.array([cos - up * sin, left, sin + up * cos])
        corners.append(_numbers(np.array(camera.position) + _FRUSTUM_LENGTH * forward, 4))
    return {"eye": list(camera.position), "corners": corners}


def _depth_sheet(images: Sequence[npt.NDArray[np.float16]], image_shape: tuple[int, int]) -> dict[str, Any]:
    """Return all depth images in one picture, row by row; the colours are the reader's browser's work."""
    rows, columns = image_shape
    stride = -(-len(images) // MOST_IMAGES)
    chosen = images[::stride]
    across = max(1, round(math.sqrt(len(chosen) * rows / columns)))
    down = -(-len(chosen) // across)
    sheet = np.zeros((down * rows, across * columns), np.uint8)
    for index, image in enumerate(chosen):
        level = np.nan_to_num(np.asarray(image, np.float32).reshape(rows, columns)).clip(0, 1)
        top, left = index // across * rows, index % across * columns
        sheet[top : top + rows, left : left + columns] = np.round(level * 255)
    content = io.BytesIO()
    Image.fromarray(sheet).save(content, "WEBP", quality=_IMAGE_QUALITY, method=4)
    uri = "data:image/webp;base64," + base64.b64encode(content.getvalue()).decode()
    return {"uri": uri, "columns": across, "stride": stride}


def _distance(position: npt.NDArray[np.float64]) -> list[float | None]:
    moved = np.linalg.norm(np.diff(position, axis=0), axis=1)
    return _numbers(np.concatenate([[0.0], np.cumsum(moved)]), 2)


def _columns(array: npt.NDArray[np.floating], digits: int) -> list[list[float | None]]:
    return [_numbers(column, digits) for column in array.T]


def _numbers(array: npt.NDArray[np.floating], digits: int) -> list[float | None]:
    """Return rounded numbers; JSON has no NaN and no infinity."""
    return [round(float(value), digits) if math.isfinite(value) else None for value in array]


def _rounded(value: float) -> float:
    return round(value, 6)
