"""Pictures of a finetuning: the training's course, and the gate head before and after."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.stats import beta
from sklearn.metrics import precision_recall_curve, roc_curve

from deploy_kit.files import replace_file
from deploy_kit.finetuning.epoch import EpochRecord
from deploy_kit.finetuning.learners.lbfgs import Optimum
from deploy_kit.gate.correction import log_odds
from deploy_kit.gate.detector import Timeline
from deploy_kit.gate.evaluation import EvaluationRows
from deploy_kit.gate.metrics import (
    auroc,
    average_precision,
    decisions,
    expected_calibration_error,
    reliability_by_passes,
)
from deploy_kit.plot_style import plot_style
from deploy_kit.policy.calibration import GateDetector

_COLOURS = {"before": "#9aa3ad", "after": "#1d6fb8"}
_EPISODES_SHOWN = 6
_LOGITS_BELOW = 6.0
_ROOM_FOR_COUNTS = 0.16
"""Share of a panel's height."""
_PROBABILITIES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.03, 0.1, 0.2, 0.5, 0.8, 0.9, 0.97, 0.99, 0.999, 0.9999)
_PASS, _OTHER = "#2a9d5c", "#c2410c"


@dataclass(frozen=True)
class HeadScores:
    """One head's logits on the test rows.

    Attributes:
        name: "before" or "after".
        logit: (n,).
        detector: announces passages; a step counts as a pass at and above its threshold.
    """

    name: str
    logit: npt.NDArray[np.float64]
    detector: GateDetector


Labels = npt.NDArray[np.bool_]


def write_plots(
    folder: Path,
    judged: EvaluationRows,
    heads: Sequence[HeadScores],
    epochs: Sequence[EpochRecord],
    optimum: Optimum | None,
    source: str,
) -> list[Path]:
    """Write training.png, curves.png, reliability.png, probabilities.png and, for whole episodes, events.png.

    Args:
        folder: where to; created.
        judged: the test rows.
        heads: the head before and after.
        epochs: the training's course.
        optimum: optimum of the solver "lbfgs", whose course is drawn instead.
        source: where the test rows come from, for the titles.

    Returns:
        The files.
    """
    label = judged.label
    rows = f"{len(label):,} test rows ({source}), {label.mean():.1%} positive"
    drawings: dict[str, Callable[[], Figure]] = {
        "training.png": partial(_training, epochs) if optimum is None else partial(_descent, optimum),
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
    figure, (loss, ranking) = _figure(2, "Training of the head")
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
    figure, (roc, recall) = _figure(2, f"Positive steps told from others, {rows}")
    for head in heads:
        colour = _COLOURS[head.name]
        false_rate, true_rate, _ = roc_curve(label, head.logit)
        roc.plot(false_rate, true_rate, color=colour, label=f"{head.name}: AUROC {auroc(head.logit, label):.3f}")
        precision, found, _ = precision_recall_curve(label, head.logit)
        name = f"{head.name}: average precision {average_precision(head.logit, label):.3f}"
        recall.plot(found, precision, color=colour, drawstyle="steps-post", label=name)
        at = decisions(head.logit, label, head.detector.threshold_logit)
        recall.plot(at.recall, at.precision, "o", color=colour, markeredgecolor="white", markersize=8)
    recall.plot([], [], "o", color="black", markeredgecolor="white", markersize=8, label="at the threshold")
    roc.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle=":", label="chance")
    recall.axhline(label.mean(), color="black", linewidth=0.8, linestyle=":", label="chance")
    roc.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.02))
    recall.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    roc.legend(frameon=False, loc="lower right")
    recall.legend(frameon=False, loc="upper right")
    return figure


def _descent(optimum: Optimum) -> Figure:
    """Draw the robust loss by iteration, and how far it lies above what no head can go below."""
    certificate = optimum.certificate
    losses = np.array([*optimum.losses[:-1], certificate.loss])
    figure, (loss, gap) = _figure(2, "Training of the head to the optimum (L-BFGS)")
    iteration = np.arange(len(losses))
    loss.plot(iteration, losses, color=_OTHER, label="training, perturbed rows")
    loss.axhline(certificate.lower_bound, color="black", linewidth=0.8, linestyle="--", label="lower bound")
    loss.set(xlabel="iteration", ylabel="binary cross-entropy (nats)", ylim=(0, None))
    gap.plot(iteration, losses - certificate.lower_bound, color=_OTHER)
    gap.set(xlabel="iteration", ylabel="loss above the lower bound (nats)", yscale="log")
    gap.annotate(
        f"{certificate.gap:.2g}",
        (iteration[-1], losses[-1] - certificate.lower_bound),
        textcoords="offset points",
        xytext=(-4, 8),
        ha="right",
    )
    for axes in (loss, gap):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.legend(frameon=False)
    return figure


def _reliability(label: Labels, heads: Sequence[HeadScores], rows: str) -> Figure:
    """Draw both on logit scales, for bins with as many passes each, so that rare passes can be read."""
    figure, panels = _figure(len(heads), f"Predicted probability against frequency, {rows}")
    for axes, head in zip(panels, heads, strict=True):
        bins = reliability_by_passes(head.logit, label)
        passes = bins.frequency * bins.rows
        # Jeffreys' interval of a share.
        ends = _logits(beta.ppf([[0.025], [0.975]], passes + 0.5, bins.rows - passes + 0.5))
        predicted, found = _logits(bins.confidence), _logits(bins.frequency)
        low = min(predicted.min(), found.min(), ends.min()) - 0.3
        high = max(predicted.max(), found.max(), ends.max()) + 0.3
        high += _ROOM_FOR_COUNTS * (high - low)
        axes.plot([low, high], [low, high], color="black", linewidth=0.8, linestyle=":", label="calibrated")
        name = (
            f"passes / steps of a bin\nexpected calibration error {expected_calibration_error(head.logit, label):.3f}"
        )
        style: dict[str, Any] = {"color": _COLOURS[head.name], "linewidth": 1, "markersize": 5, "capsize": 2}
        error = np.abs(ends - found).clip(0)
        axes.errorbar(predicted, found, error, fmt="o-", label=name, **style)
        # Upright, each above its interval, since bins of high probabilities lie close together.
        for x, top, count, total in zip(predicted, ends[1], passes, bins.rows, strict=True):
            place: dict[str, Any] = {"xytext": (0, 3), "ha": "center", "va": "bottom", "rotation": 90}
            axes.annotate(f"{count:.0f}/{total:,}", (x, top), textcoords="offset points", fontsize=7, **place)
        margin = 0.15 * (predicted.max() - predicted.min()) + 0.3
        across = (float(predicted.min() - margin), float(predicted.max() + margin))
        axes.set(title=head.name, xlabel="predicted probability", ylabel="share of positive steps")
        axes.set(xlim=across, ylim=(low, high))
        _probability_ticks(axes.xaxis, *across)
        _probability_ticks(axes.yaxis, low, high)
        axes.legend(frameon=False, loc="best", fontsize=8)
    return figure


def _logits(probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return log odds, those of 0 and 1 as far out as is drawn."""
    inside = probability.clip(_PROBABILITIES[0], _PROBABILITIES[-1])
    odds: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def _probabilities(label: Labels, heads: Sequence[HeadScores], rows: str) -> Figure:
    figure, panels = _figure(len(heads), f"Probability by class, {rows}")
    for axes, head in zip(panels, heads, strict=True):
        low, high = float(head.logit.min()), float(head.logit.max())
        edges = np.linspace(low, max(high, low + 1e-6), 41).tolist()
        for wanted, colour, name in ((False, _OTHER, "other steps"), (True, _PASS, "positive steps")):
            chosen = head.logit[label == wanted]
            weights = np.full(chosen.size, 1 / chosen.size)
            axes.hist(chosen, edges, weights=weights, color=colour, alpha=0.55, label=f"{name} ({chosen.size:,})")
        axes.axvline(head.detector.threshold_logit, color="black", linewidth=1, linestyle="--", label="threshold")
        axes.set(title=head.name, xlabel="predicted probability (logit scale)", ylabel="share of the class")
        _probability_ticks(axes.xaxis, low, high)
        axes.legend(frameon=False)
    return figure


def _events(label: Labels, head: HeadScores, timeline: Timeline) -> Figure:
    """Draw the first episodes: probability over steps on a logit scale, passages, and where the detector fires."""
    shown = min(_EPISODES_SHOWN, timeline.episodes)
    figure = Figure(figsize=(10.4, 1.1 + 1.25 * shown), layout="constrained")
    figure.suptitle(f"Detector on the first {shown} of {timeline.episodes} test episodes, probability on a logit scale")
    panels = figure.subplots(shown, 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    firings = timeline.firings(head.logit, head.detector)
    visible = head.logit[timeline.row < shown]
    # What lies far below the threshold matters little; where it lies above, all is shown.
    low = max(float(visible.min()), head.detector.threshold_logit - _LOGITS_BELOW) - 0.3
    high = max(float(visible.max()), head.detector.threshold_logit) + 0.6
    for episode, axes in enumerate(panels):
        rows = np.flatnonzero(timeline.row == episode)
        passed = timeline.step[rows[label[rows]]]
        axes.vlines(passed, low, high, color=_PASS, linewidth=4, alpha=0.35, label="positive")
        curve = head.logit[rows].clip(low)
        axes.plot(timeline.step[rows], curve, color=_COLOURS["after"], linewidth=1, label="probability")
        inside = timeline.row[firings.row] == episode
        for kind, colour, marker, name in (
            (firings.hit, _PASS, "^", "fired, hit"),
            (~firings.hit, _OTHER, "x", "fired, false alarm"),
        ):
            at = firings.row[inside & kind]
            axes.plot(timeline.step[at], head.logit[at], marker, color=colour, markersize=6, label=name)
        axes.axhline(head.detector.threshold_logit, color="black", linewidth=0.8, linestyle="--", label="threshold")
        axes.set(ylim=(low, high), ylabel=f"ep. {episode}")
        _probability_ticks(axes.yaxis, low, high, most=4)
    figure.legend(
        *panels[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=5, fontsize=8
    )
    panels[-1].set(xlabel="step")
    return figure


def _probability_ticks(axis: Axis, low: float, high: float, most: int = 8) -> None:
    """Label an axis of logits with probabilities."""
    inside = [probability for probability in _PROBABILITIES if low <= log_odds(probability) <= high]
    step = (high - low) / most
    shown: list[float] = []
    for probability in inside:  # the round ones lie close together at the upper end of a wide range
        if not shown or log_odds(probability) - log_odds(shown[-1]) >= step:
            shown.append(probability)
    axis.set_ticks([log_odds(probability) for probability in shown], [f"{probability:g}" for probability in shown])
