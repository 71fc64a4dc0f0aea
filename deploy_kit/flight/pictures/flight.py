"""Pictures of one flight: gate probability and actions over time, the track from above, what the camera saw."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy_kit.flight.pictures.track import draw_track
from deploy_kit.flight.pictures.video import DepthVideo, write_still
from deploy_kit.flight.trace import FlightTrace
from deploy_kit.plot_style import plot_style
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform

_PASS, _PROBABILITY, _MUTED = "#2a9d5c", "#be123c", "#6b7280"
_ACTION_COLOURS = ("#111827", "#b45309", "#0f766e", "#1d4ed8")

STILL_OFFSETS = (-18, -9, 0)
"""Steps before a passage that the still picture shows."""


def draw_flight(
    folder: Path, trace: FlightTrace, image_shape: tuple[int, int], transform: ActionTransform, threshold: float | None
) -> tuple[Path, ...]:
    """Write all pictures that a trace has the data for; those of an earlier flight that it has not are removed.

    Args:
        folder: where to; the names are those of `picture_paths`.
        trace: trace of a whole episode.
        image_shape: (rows, columns) of the depth image.
        transform: transform from raw actions to commands.
        threshold: probability from which a step counts as a passage, None if unknown.

    Returns:
        The files written.
    """
    paths = picture_paths(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"actions"}
    draw_actions(trace, transform, threshold, paths["actions"])
    if trace.probability:
        draw_probability(trace, threshold, paths["probability"])
        drawn.add("probability")
    if trace.track is not None and len(trace.position) > 1:
        draw_track(trace, paths["track"])
        drawn.add("track")
    drawn |= draw_depth(trace, image_shape, threshold, paths)
    for name in paths.keys() - drawn:
        paths[name].unlink(missing_ok=True)
    return tuple(sorted(paths[name] for name in drawn))


def picture_paths(folder: Path) -> dict[str, Path]:
    """Return the files of a flight by what they show."""
    return {
        "probability": folder / "auxiliary_prob.png",
        "actions": folder / "actions.png",
        "track": folder / "track.png",
        "video": folder / "depth.mp4",
        "still": folder / "depth.png",
    }


def _plot_probability(axes: Axes, trace: FlightTrace, threshold: float | None) -> None:
    axes.fill_between(trace.time, trace.probability, color=_PROBABILITY, alpha=0.15, linewidth=0)
    axes.plot(trace.time, trace.probability, color=_PROBABILITY, linewidth=1.4, label="gate probability")
    if threshold is not None:
        axes.axhline(threshold, color=_MUTED, linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    # Calibrated probabilities of a rare event may stay small, also where they are right.
    top = 1.2 * max(*trace.probability, threshold or 0.0)
    axes.set(ylabel="gate\nprobability", ylim=(0.0, min(top, 1.03)))


def _mark_passes(axes: Axes, trace: FlightTrace) -> None:
    for index, time in enumerate(trace.time[trace.pass_steps]):
        axes.axvline(time, color=_PASS, alpha=0.6, linewidth=1.2, zorder=0, label="gate passed" if index == 0 else None)


def draw_probability(trace: FlightTrace, threshold: float | None, path: Path) -> None:
    """Write the gate probability over time, with the passages and the decision threshold (a probability)."""
    with plot_style():
        figure = Figure(figsize=(9, 2.8), layout="constrained")
        axes = figure.subplots()
        _mark_passes(axes, trace)
        _plot_probability(axes, trace, threshold)
        axes.set(xlabel="time (s)", xlim=(0, trace.duration))
        _legend(figure, axes)
        figure.savefig(path)


def draw_actions(trace: FlightTrace, transform: ActionTransform, threshold: float | None, path: Path) -> None:
    """Write the gate probability, where there is one, and below it the four commands in physical units over time."""
    command = transform.apply(np.stack(trace.action))
    head = 1 if trace.probability else 0
    with plot_style():
        figure = Figure(figsize=(9, 1.5 * (4 + head) + 0.8), layout="constrained")
        rows = figure.subplots(4 + head, 1, sharex=True, squeeze=False)[:, 0]
        for axes in rows:
            _mark_passes(axes, trace)
        if head:
            _plot_probability(rows[0], trace, threshold)
        for index, (axes, name, unit) in enumerate(zip(rows[head:], ACTION_NAMES, ACTION_UNITS, strict=True)):
            axes.plot(trace.time, command[:, index], color=_ACTION_COLOURS[index], linewidth=1.3)
            axes.set_ylabel(f"{name.replace('_', ' ')}\n({unit})")
        rows[-1].set(xlabel="time (s)", xlim=(0, trace.duration))
        _legend(figure, rows[0])
        figure.align_ylabels()
        figure.savefig(path)


def _legend(figure: Figure, axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)


def draw_depth(
    trace: FlightTrace, image_shape: tuple[int, int], threshold: float | None, paths: dict[str, Path]
) -> set[str]:
    """Write the depth video and, where a gate was passed, three of its frames side by side.

    Returns:
        Which of "video" and "still" were written.
    """
    chosen = still_steps(trace)
    stills = []
    with DepthVideo(paths["video"], image_shape, 1 / trace.policy_period, threshold) as video:
        for step, (depth, passed) in enumerate(zip(trace.depth, trace.passed, strict=True)):
            frame = video.add(depth, trace.probability[step] if trace.probability else None, passed)
            if step in chosen:
                stills.append(frame)
    if not stills:
        return {"video"}
    write_still(stills, paths["still"])
    return {"video", "still"}


def still_steps(trace: FlightTrace) -> list[int]:
    """Return the steps of the still picture: up to a passage, that of the highest probability if there is a head."""
    passes = [int(step) for step in trace.pass_steps if step + STILL_OFFSETS[0] >= 0]
    if not passes:
        return []
    best = max(passes, key=lambda step: trace.probability[step] if trace.probability else 0.0)
    return [best + offset for offset in STILL_OFFSETS]
