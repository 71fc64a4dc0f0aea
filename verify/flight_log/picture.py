"""A picture of a flight's log: gate, commands, duration of steps, ages, how usual the inputs were."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deploy_kit.arrays import sigmoid
from deploy_kit.bundle.contract import Contract
from deploy_kit.files import replace_file
from deploy_kit.flightlog.reader import FlightLog
from deploy_kit.plot_style import plot_style

_GATE, _EVENT, _MUTED, _BAD = "#be123c", "#2a9d5c", "#6b7280", "#b45309"
_COMMANDS = ("#111827", "#b45309", "#0f766e", "#1d4ed8")

Float64 = npt.NDArray[np.float64]


def draw_flight_log(path: Path, log: FlightLog, contract: Contract, times: Float64, distance: Float64 | None) -> None:
    """Write the picture.

    Args:
        path: PNG to write.
        log: the log.
        contract: names the commands and gives the periods.
        times: (n,) of the flown steps, s.
        distance: (n,) of each flown step's features from the held-out ones over the limit; None where unknown.
    """
    flown = log.flown
    with plot_style():
        figure = Figure(figsize=(10, 9 if distance is None else 10.5), layout="constrained")
        rows = 4 if distance is None else 5
        axes = list(np.atleast_1d(figure.subplots(rows, 1, sharex=True)))
        _gate(axes[0], log, contract, times)
        command = np.array([step.command for step in flown])
        for index, (name, unit) in enumerate(zip(contract.action.names, contract.action.units, strict=True)):
            panel = axes[1] if index == 0 else axes[2]
            panel.plot(times, command[:, index], color=_COMMANDS[index % 4], linewidth=1, label=f"{name} ({unit})")
        axes[1].set(ylabel="thrust / mass")
        axes[2].set(ylabel="body rates")
        period = contract.timing.policy_period_s.value
        duration = np.array([step.duration_ns for step in flown]) / 1e6
        # An imported log may not know.
        if (duration > 0).any():
            axes[3].plot(times, duration, ".", color=_MUTED, markersize=3, label="duration of a step")
        axes[3].set_yscale("log")
        if isinstance(period, (int, float)):
            axes[3].axhline(1e3 * period, color=_BAD, linestyle="--", linewidth=1, label="policy period")
        for column, name in ((1, "age of the state"), (2, "age of the image")):
            age = 1e3 * np.array([step.times[0] - step.times[column] for step in flown])
            if np.isfinite(age).any() and np.nanmax(age) > 0:
                axes[3].plot(times, np.where(age > 0, age, np.nan), linewidth=0.8, label=name)
        axes[3].set(ylabel="ms")
        if distance is not None:
            axes[4].plot(times, distance, color=_MUTED, linewidth=1, label="distance from held-out features / limit")
            axes[4].axhline(1.0, color=_BAD, linestyle="--", linewidth=1)
            axes[4].set(ylabel="distance", ylim=(0, max(1.2, float(distance.max()) * 1.1)))
        for panel in (panel for panel in axes if panel.get_legend_handles_labels()[0]):
            panel.legend(loc="upper right", fontsize=8, ncols=3)
        axes[-1].set(xlabel="time, s")
        refused = sum(step.fault is not None for step in log.steps)
        figure.suptitle(f"{log.path.name}: {len(flown)} steps flown, {refused} refused", fontsize=11)
        replace_file(path, lambda temporary: figure.savefig(temporary, format="png"))


def _gate(panel: Axes, log: FlightLog, contract: Contract, times: Float64) -> None:
    flown = log.flown
    output = np.array([step.gate for step in flown], np.float64)
    if contract.gate is None or not np.isfinite(output).any():
        panel.text(0.5, 0.5, "no gate output", transform=panel.transAxes, ha="center", color=_MUTED)
        return
    probability = output if contract.output("gate_probability") is not None else sigmoid(output)
    panel.plot(times, probability, color=_GATE, linewidth=1.2, label="gate probability")
    if contract.gate.threshold_probability is not None:
        panel.axhline(contract.gate.threshold_probability, color=_MUTED, linestyle="--", linewidth=1, label="threshold")
    events = [time for time, step in zip(times, flown, strict=True) if step.event]
    for index, time in enumerate(events):
        panel.axvline(time, color=_EVENT, alpha=0.6, linewidth=1.2, label="passage announced" if not index else None)
    panel.set(ylabel="gate")
