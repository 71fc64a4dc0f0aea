"""The track from above with the flown path and the gates, both coloured by the gate head's probability."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import LinearSegmentedColormap, Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from scipy.spatial import ConvexHull

from deploy_kit.flight.trace import FlightTrace
from deploy_kit.plot_style import plot_style
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import matrix_from_quaternion
from deploy_kit.sim.tracks import Track

COLOURS = LinearSegmentedColormap.from_list("gate", ["#a3b8d9", "#4f6bd6", "#8b2fc9", "#e11d48"])
"""From a pale path that expects no gate to a red one that does."""

_INK, _OPEN, _OBSTACLE = "#111827", "#9ca3af", "#dfe3e8"
_FRAME_WIDTH = 0.2
"""Width of a gate's frame around its opening, m; the task draws 0.15 to 0.25."""


def draw_track(trace: FlightTrace, path: Path) -> None:
    """Write the track from above.

    Path and gates are coloured by the probability that the gate head gave, a gate by the one in the step that passed
    it; without a head the path is coloured by speed. Gates that were not passed are dashed.

    Args:
        trace: a trace with positions and a track.
        path: the PNG to write.

    Raises:
        ValueError: the trace has no track, or fewer than two positions.
    """
    track = trace.track
    if track is None or len(trace.position) < 2:
        raise ValueError("a track picture needs a track and positions")
    with plot_style():
        figure = Figure(figsize=_figure_size(trace, track), layout="constrained")
        axes = figure.subplots()
        draw_track_axes(axes, trace, track)
        name = "gate probability" if trace.probability else "speed (m/s)"
        figure.colorbar(axes.collections[0], ax=axes, label=name, aspect=35, pad=0.02)
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path)


def draw_track_axes(axes: Axes, trace: FlightTrace, track: Track) -> None:
    """Draw path, gates, obstacles, start and end; the path is the first collection, the passed gates the second."""
    points = np.stack(trace.position)[:, :2]
    values = np.asarray(trace.probability or trace.speed)
    # Calibrated probabilities of a rare event are small: their square root shows the difference.
    scale = PowerNorm(0.5, 0.0, 1.0) if trace.probability else Normalize(0.0, float(values.max()))
    line = LineCollection(list(np.stack([points[:-1], points[1:]], axis=1)), cmap=COLOURS, norm=scale)
    line.set(linewidth=3.0, capstyle="round", zorder=4, array=values[1:])
    axes.add_collection(line)
    _draw_gates(axes, trace, track, scale)
    obstacles = [_outline(primitive) for primitive in track.primitives if primitive.role == "obstacle"]
    axes.add_collection(
        PatchCollection(obstacles, facecolor=_OBSTACLE, edgecolor=_OPEN, linewidth=0.7, zorder=2, label="obstacle")
    )
    axes.plot(*points[0], "o", color=_INK, markersize=8, linestyle="none", zorder=6, label="start")
    end = ("X", "#b91c1c", "crash") if trace.crashed else ("s", _INK, "end")
    axes.plot(*points[-1], end[0], color=end[1], markersize=8, linestyle="none", zorder=6, label=end[2])
    axes.set(xlabel="x (m)", ylabel="y (m)", title=_title(trace, track), aspect="equal")
    axes.margins(0.07)
    axes.autoscale_view()


def _draw_gates(axes: Axes, trace: FlightTrace, track: Track, scale: Normalize) -> None:
    """Draw each gate as the bar that it is from above, with its number and the probability at its last passage."""
    across = np.stack([-np.sin(track.gate_yaws), np.cos(track.gate_yaws)], axis=1)
    half = (track.gate_sizes[:, :1] / 2 + _FRAME_WIDTH) * across
    centre = track.gate_positions[:, :2]
    bars = np.stack([centre - half, centre + half], axis=1)
    count = len(bars)
    passed = {index % count: int(step) for index, step in enumerate(trace.pass_steps)}
    chosen = sorted(passed)
    values = trace.probability or trace.speed
    passed_bars = LineCollection(list(bars[chosen]), cmap=COLOURS, norm=scale, linewidth=6.5, zorder=5)
    passed_bars.set_array(np.array([values[passed[index]] for index in chosen]))
    axes.add_collection(passed_bars)
    missed = [index for index in range(count) if index not in passed]
    axes.add_collection(
        LineCollection(
            list(bars[missed]),
            colors=_OPEN,
            linewidth=4,
            linestyle=(0, (1.2, 0.7)),
            zorder=3,
            label="gate not passed" if missed else None,
        )
    )
    for index in range(count):
        shown = f": {trace.probability[passed[index]]:.2f}" if index in passed and trace.probability else ""
        axes.annotate(
            f"{index + 1}{shown}",
            **_label_place(bars[index], centre.mean(axis=0)),
            textcoords="offset points",
            color=_INK if index in passed else _OPEN,
            fontweight="bold",
            bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.0},
            zorder=7,
        )


def _label_place(bar: npt.NDArray[np.float64], middle: npt.NDArray[np.float64]) -> dict[str, Any]:
    """Return where a gate's label goes: beyond that end of the gate that is farther from the track's middle."""
    near, far = sorted(bar, key=lambda end: float(np.linalg.norm(end - middle)))
    x, y = (far - near) / np.linalg.norm(far - near)
    return {
        "xy": tuple(far),
        "xytext": (7 * x, 7 * y),
        "ha": "center" if abs(x) < 0.4 else "left" if x > 0 else "right",
        "va": "center" if abs(y) < 0.4 else "bottom" if y > 0 else "top",
    }


def _figure_size(trace: FlightTrace, track: Track) -> tuple[float, float]:
    solids = np.array([primitive.position[:2] for primitive in track.primitives])
    width, height = np.ptp(np.vstack([np.stack(trace.position)[:, :2], solids]), axis=0)
    ratio = height / max(width, 1e-6)
    return (9.0, float(np.clip(7.5 * ratio, 2.2, 7.0)) + 1.2) if ratio < 1.4 else (6.5, 9.5)


def _title(trace: FlightTrace, track: Track) -> str:
    obstacles = sum(primitive.role == "obstacle" for primitive in track.primitives)
    gates = len(trace.pass_steps)
    return (
        f"{track.kind} track with {obstacles} obstacles: {gates} gate{'' if gates == 1 else 's'} "
        f"in {trace.duration:.1f} s"
    )


def _outline(primitive: Primitive) -> Polygon | Circle:
    """Return what a solid covers on the ground: the convex hull of its projected corners."""
    centre = np.asarray(primitive.position)
    if primitive.kind == "sphere":
        return Circle((centre[0], centre[1]), primitive.size[0])
    rotation = matrix_from_quaternion(np.asarray(primitive.quaternion))
    if primitive.kind == "box":
        corners = np.array(np.meshgrid(*[(-s, s) for s in primitive.size])).reshape(3, -1).T
    else:
        radius, half = primitive.size
        angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        ring = np.stack([radius * np.cos(angle), radius * np.sin(angle), np.zeros_like(angle)], axis=1)
        up = np.array([0.0, 0.0, half])
        corners = np.vstack([ring + up, ring - up])
    flat = (corners @ rotation.T + centre)[:, :2]
    return Polygon(flat[ConvexHull(flat).vertices])
