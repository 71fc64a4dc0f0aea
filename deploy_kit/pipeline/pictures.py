"""Pictures of one flight: gate probability, actions, and the track from above with the flown path."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon
from scipy.spatial import ConvexHull

from deploy_kit.pipeline.plot_style import plot_style
from deploy_kit.pipeline.rollout import StepRecord
from deploy_kit.policy.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform
from deploy_kit.sim.primitives import Primitive
from deploy_kit.sim.rotations import matrix_from_quaternion
from deploy_kit.sim.tracks import Track

_PASS, _GATE, _OBSTACLE = "#2a9d5c", "#c2410c", "#9aa3ad"


@dataclass
class FlightTrace:
    """One environment's first episode, step by step.

    Attributes:
        env: index of the environment.
        policy_period: seconds a step.
        track: the track it flew on, None where the environment has none to show.
        position: world position after each step, m, (3,) each.
        speed: m/s.
        probability: gate probability; stays empty without a gate head.
        action: raw network action, (4,) each.
        passed: whether the step passed a gate.
        crashed: whether the episode ended otherwise than by its time.
    """

    env: int
    policy_period: float
    track: Track | None = None
    position: list[npt.NDArray[np.float64]] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    probability: list[float] = field(default_factory=list)
    action: list[npt.NDArray[np.float32]] = field(default_factory=list)
    passed: list[bool] = field(default_factory=list)
    crashed: bool = False
    finished: bool = False

    def add(self, record: StepRecord) -> None:
        """Take in one step; steps after the end of the episode are ignored."""
        if self.finished:
            return
        if "position" in record.extras:
            self.position.append(record.extras["position"][self.env].cpu().numpy().astype(np.float64))
            self.speed.append(float(record.extras["speed"][self.env]))
        if record.output.gate_logit is not None:
            self.probability.append(float(record.output.gate_logit[self.env, 0].sigmoid()))
        self.action.append(record.output.action[self.env].cpu().numpy())
        self.passed.append(bool(record.label[self.env]))
        self.finished = bool(record.done[self.env])
        self.crashed = self.finished and not bool(record.time_out[self.env])

    @property
    def time(self) -> npt.NDArray[np.float64]:
        """Time of each step's start, s."""
        return np.arange(len(self.action), dtype=np.float64) * self.policy_period

    @property
    def pass_times(self) -> npt.NDArray[np.float64]:
        """Times at which gates were passed, s."""
        times: npt.NDArray[np.float64] = self.time[np.asarray(self.passed, dtype=bool)]
        return times


def _mark_passes(axes: Axes, trace: FlightTrace) -> None:
    for index, time in enumerate(trace.pass_times):
        axes.axvline(time, color=_PASS, alpha=0.55, linewidth=1.2, label="gate passed" if index == 0 else None)


def draw_probability(trace: FlightTrace, threshold: float | None, path: Path) -> None:
    """Write the gate probability over time, with the passages and the decision threshold (a probability)."""
    with plot_style():
        figure = Figure(figsize=(9, 3))
        axes = figure.subplots()
        _mark_passes(axes, trace)
        axes.plot(trace.time, trace.probability, color="#1d4ed8", linewidth=1.4, label="gate probability")
        if threshold is not None:
            axes.axhline(threshold, color="#6b7280", linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
        axes.set(xlabel="time (s)", ylabel="probability", ylim=(-0.03, 1.03), title="Gate head in flight")
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        figure.savefig(path)


def draw_actions(trace: FlightTrace, transform: ActionTransform, path: Path) -> None:
    """Write the four commands over time, in physical units."""
    command = transform.apply(np.stack(trace.action))
    with plot_style():
        figure = Figure(figsize=(9, 6.5))
        rows = figure.subplots(4, 1, sharex=True)
        colours = ("#111827", "#b91c1c", "#15803d", "#1d4ed8")
        for index, (axes, name, unit) in enumerate(zip(rows, ACTION_NAMES, ACTION_UNITS, strict=True)):
            _mark_passes(axes, trace)
            axes.plot(trace.time, command[:, index], color=colours[index], linewidth=1.2)
            axes.set_ylabel(f"{name.replace('_', ' ')}\n({unit})")
        rows[0].set_title("Commands: collective thrust over mass, and body rates; green: gate passed")
        rows[-1].set_xlabel("time (s)")
        figure.align_ylabels()
        figure.savefig(path)


def draw_track(trace: FlightTrace, path: Path) -> None:
    """Write the track from above with the flown path, coloured by speed.

    Args:
        trace: a trace with positions and a track.
        path: the PNG to write.
    """
    track = trace.track
    if track is None or not trace.position:
        raise ValueError("a track picture needs a track and positions")
    points = np.stack(trace.position)[:, :2]
    with plot_style():
        solids = np.array([primitive.position[:2] for primitive in track.primitives])
        width, height = np.ptp(np.vstack([points, solids]), axis=0)
        figure = Figure(figsize=(8.0, float(np.clip(7.0 * height / width, 3.0, 8.0)) + 1.0), layout="constrained")
        axes = figure.subplots()
        for role, colour, alpha in (("obstacle", _OBSTACLE, 0.75), ("gate", _GATE, 0.95)):
            shapes = [_outline(primitive) for primitive in track.primitives if primitive.role == role]
            patches = PatchCollection(shapes, facecolor=colour, edgecolor=colour, linewidth=1.5, alpha=alpha, zorder=2)
            axes.add_collection(patches)
        for index, position in enumerate(track.gate_positions):
            axes.annotate(
                str(index + 1),
                position[:2],
                xytext=(7, 7),
                textcoords="offset points",
                color=_GATE,
                fontweight="bold",
                zorder=5,
            )
        segments = np.stack([points[:-1], points[1:]], axis=1)
        line = LineCollection(list(segments), cmap="viridis", linewidth=2.2, zorder=4)
        line.set_array(np.asarray(trace.speed[1:]))
        axes.add_collection(line)
        figure.colorbar(line, ax=axes, label="speed (m/s)", aspect=30)
        axes.plot(*points[0], "o", color="#111827", markersize=7, zorder=6, label="start")
        passed = points[np.asarray(trace.passed, dtype=bool)]
        axes.plot(*passed.T, "o", color=_PASS, markersize=6, linestyle="none", zorder=6, label="gate passed")
        end = ("X", "#b91c1c", "crash") if trace.crashed else ("s", "#111827", "end")
        axes.plot(*points[-1], end[0], color=end[1], markersize=9, linestyle="none", zorder=6, label=end[2])
        axes.set(xlabel="x (m)", ylabel="y (m)", title=_title(trace, track), aspect="equal")
        axes.autoscale_view()
        axes.margins(0.06)
        figure.legend(loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path)


def _title(trace: FlightTrace, track: Track) -> str:
    obstacles = sum(primitive.role == "obstacle" for primitive in track.primitives)
    return (
        f"{track.kind} track, difficulty {track.difficulty:.2f}, {obstacles} obstacles: "
        f"{sum(trace.passed)} gates in {len(trace.passed) * trace.policy_period:.1f} s"
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
