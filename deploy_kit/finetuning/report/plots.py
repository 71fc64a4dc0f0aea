"""Pictures of a finetuning: the training's course, and the gate head before and after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_curve

from deploy_kit.arrays import sigmoid
from deploy_kit.files import replace_file
from deploy_kit.finetuning.epoch import EpochRecord
from deploy_kit.gate.detector import Timeline
from deploy_kit.gate.evaluation import EvaluationRows
from deploy_kit.gate.metrics import (
    auroc,
    average_precision,
    decisions,
    expected_calibration_error,
    reliability,
)
from deploy_kit.plot_style import plot_style

_COLOURS = {"before": "#9aa3ad", "after": "#1d6fb8"}
_EPISODES_SHOWN = 6
_PASS, _OTHER = "#2a9d5c", "#c2410c"


@dataclass(frozen=True)
class HeadScores:
    """One head's logits on the test rows.

    Attributes:
        name: "before" or "after".
        logit: (n,).
        threshold: logit at and above which a step counts as a pass.
    """

    name: str
    logit: npt.NDArray[np.float64]
    threshold: float


Labels = npt.NDArray[np.bool_]


def write_plots(
    folder: Path, judged: EvaluationRows, heads: Sequence[HeadScores], epochs: Sequence[EpochRecord], source: str
) -> list[Path]:
    """Write training.png, curves.png, reliability.png, probabilities.png and, for whole episodes, events.png.

    Args:
        folder: where to; created.
        judged: the test rows.
        heads: the head before and after.
        epochs: the training's course.
        source: where the test rows come from, for the titles.

    Returns:
        The files.
    """
    label = judged.label
    rows = f"{len(label):,} test rows ({source}), {label.mean():.1%} positive"
    drawings: dict[str, Callable[[], Figure]] = {
        "training.png": partial(_training, epochs),
        "curves.png": partial(_curves, label, heads, rows),
        "reliability.png": partial(_reliability, label, heads, rows),
        "probabilities.png": partial(_probabilities, label, heads, rows),
    }
    if judged.timeline is not None:
        drawings["events.png"] = partial(_events, label, heads[-1], judged.timeline)
    for name, draw in drawings.items():
        with plot_style():
            replace_file(folder / name, draw().savefig)
    return [folder / name for name in drawings]


def _figure(columns: int, title: str) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(5.2 * columns, 4.4), layout="constrained")
    figure.suptitle(title)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _training(epochs: Sequence[EpochRecord]) -> Figure:
    figure, (loss, ranking) = _figure(2, "Training of the gate head")
    number = [record.epoch for record in epochs]
    style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(epochs) <= 30 else {}
    loss.plot(number, [r.training_loss for r in epochs], color=_OTHER, label="training, perturbed rows", **style)
    loss.plot(number, [r.validation_loss for r in epochs], color=_COLOURS["after"], label="validation", **style)
    loss.set(xlabel="epoch", ylabel="binary cross-entropy (nats)", ylim=(0, None))
    ranking.plot(number, [r.validation_auroc for r in epochs], color=_COLOURS["after"], label="AUROC", **style)
    ranking.plot(
        number, [r.validation_average_precision for r in epochs], color=_PASS, label="average precision", **style
    )
    ranking.set(xlabel="epoch", ylabel="on validation rows", ylim=(0, 1.02))
    for axes in (loss, ranking):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
    return figure


def _curves(label: Labels, heads: Sequence[HeadScores], rows: str) -> Figure:
    figure, (roc, recall) = _figure(2, f"Gate passes told from other steps, {rows}")
    for head in heads:
        colour = _COLOURS[head.name]
        false_rate, true_rate, _ = roc_curve(label, head.logit)
        roc.plot(false_rate, true_rate, color=colour, label=f"{head.name}: AUROC {auroc(head.logit, label):.3f}")
        precision, found, _ = precision_recall_curve(label, head.logit)
        name = f"{head.name}: average precision {average_precision(head.logit, label):.3f}"
        recall.plot(found, precision, color=colour, drawstyle="steps-post", label=name)
        at = decisions(head.logit, label, head.threshold)
        recall.plot(at.recall, at.precision, "o", color=colour, markeredgecolor="white", markersize=8)
    recall.plot([], [], "o", color="black", markeredgecolor="white", markersize=8, label="at the threshold")
    roc.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="chance")
    recall.axhline(label.mean(), color="black", linewidth=0.8, linestyle=":", label="chance")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))
    recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    roc.legend(frameon=False, loc="lower right")
    recall.legend(frameon=False, loc="upper right")
    return figure


def _reliability(label: Labels, heads: Sequence[HeadScores], rows: str) -> Figure:
    figure, (axes,) = _figure(1, f"Predicted probability against frequency\n{rows}")
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="calibrated")
    for head in heads:
        bins = reliability(head.logit, label)
        name = f"{head.name}: expected calibration error {expected_calibration_error(head.logit, label):.3f}"
        axes.plot(bins.confidence, bins.frequency, color=_COLOURS[head.name], linewidth=1, label=name)
        area = 20 + 180 * np.sqrt(bins.rows / bins.rows.sum())
        axes.scatter(
            bins.confidence, bins.frequency, area, color=_COLOURS[head.name], edgecolor="white", zorder=3, clip_on=False
        )
    axes.set(xlabel="predicted probability of a gate pass", ylabel="share of gate passes", xlim=(0, 1), ylim=(0, 1))
    axes.legend(frameon=False, loc="upper left")
    return figure


def _probabilities(label: Labels, heads: Sequence[HeadScores], rows: str) -> Figure:
    figure, panels = _figure(len(heads), f"Gate probability by class, {rows}")
    edges = np.linspace(0, 1, 41).tolist()
    for axes, head in zip(panels, heads, strict=True):
        probability = sigmoid(head.logit)
        for wanted, colour, name in ((False, _OTHER, "other steps"), (True, _PASS, "gate passes")):
            chosen = probability[label == wanted]
            weights = np.full(chosen.size, 1 / chosen.size)
            axes.hist(chosen, edges, weights=weights, color=colour, alpha=0.55, label=f"{name} ({chosen.size:,})")
        axes.axvline(
            float(sigmoid(np.array(head.threshold))), color="black", linewidth=1, linestyle="--", label="threshold"
        )
        axes.set(
            title=head.name, xlabel="predicted probability", ylabel="share of the class", xlim=(0, 1), yscale="log"
        )
        axes.legend(frameon=False, loc="upper center")
    return figure


def _events(label: Labels, head: HeadScores, timeline: Timeline) -> Figure:
    """Draw the first episodes: probability over steps, passages, and where the detector fires."""
    shown = min(_EPISODES_SHOWN, timeline.episodes)
    figure = Figure(figsize=(10.4, 1.1 + 1.05 * shown), layout="constrained")
    figure.suptitle(f"Detector on the first {shown} of {timeline.episodes} test episodes")
    panels = figure.subplots(shown, 1, sharex=True, squeeze=False)[:, 0]
    firings = timeline.firings(head.logit, head.threshold)
    probability = sigmoid(head.logit)
    for episode, axes in enumerate(panels):
        rows = np.flatnonzero(timeline.row == episode)
        axes.plot(timeline.step[rows], probability[rows], color=_COLOURS["after"], linewidth=1, label="probability")
        passed = timeline.step[rows[label[rows]]]
        axes.vlines(passed, 0, 1, color=_PASS, linewidth=4, alpha=0.35, label="gate passed")
        inside = timeline.row[firings.row] == episode
        for kind, colour, marker, name in (
            (firings.hit, _PASS, "^", "fired, hit"),
            (~firings.hit, _OTHER, "x", "fired, false alarm"),
        ):
            at = firings.row[inside & kind]
            axes.plot(timeline.step[at], probability[at], marker, color=colour, markersize=6, label=name)
        axes.axhline(float(sigmoid(np.array(head.threshold))), color="black", linewidth=0.8, linestyle="--")
        axes.set(ylim=(0, 1.05), ylabel=f"ep. {episode}", yticks=(0, 1))
    panels[0].legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=8)
    panels[-1].set(xlabel="step")
    return figure
