"""Draw a benchmark: of each candidate the median, the tail and the slowest step, on a logarithmic axis."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from deploy_kit.bench.report import BenchReport
from deploy_kit.files import replace_file
from deploy_kit.plot_style import plot_style
from deploy_kit.timing import FEWEST_FOR_TAIL

PANELS = {"back_to_back": "back to back", "paced": "one step each {period:.3g} ms"}


def plot_bench(report: BenchReport, path: Path) -> None:
    """Write a PNG with a panel for each way of stepping that was measured.

    Args:
        report: what was measured.
        path: target file, replaced atomically.
    """
    kinds = [kind for kind in PANELS if any(getattr(row, kind) for row in report.rows)]
    count = len(report.rows)
    width, height = 3.6 + 4.4 * max(1, len(kinds)), 1.6 + 0.42 * count
    with plot_style():
        figure, axes = plt.subplots(1, max(1, len(kinds)), figsize=(width, height), sharey=True, squeeze=False)
        try:
            for kind, axis in zip(kinds, axes[0], strict=False):
                _panel(report, kind, axis)
            axes[0][0].set_yticks(range(count), [row.name for row in report.rows])
            axes[0][0].set_ylim(count - 0.5, -0.7)
            environment = report.environment
            figure.suptitle(f"{environment['cpu']}, onnxruntime {environment['onnxruntime']}", fontsize=9)
            figure.supxlabel(
                f"µs a step: median with its multiple of the first one's, thick to the 99.9th percentile (99th "
                f"with fewer than {FEWEST_FOR_TAIL} steps), thin to the slowest",
                fontsize=8,
            )
            figure.tight_layout()
            replace_file(path, lambda temporary: figure.savefig(temporary, format="png"))
        finally:
            plt.close(figure)


def _panel(report: BenchReport, kind: str, axis: Axes) -> None:
    for index, row in enumerate(report.rows):
        figures = getattr(row, kind)
        if figures is None:
            continue
        tail = figures.p99_us if figures.p99_9_us is None else figures.p99_9_us
        colour = f"C{index % 10}"
        axis.plot([figures.p50_us, figures.max_us], [index, index], color=colour, linewidth=1, alpha=0.5)
        axis.plot([figures.p50_us, tail], [index, index], color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
        axis.plot(figures.p50_us, index, "o", color=colour)
        axis.plot(figures.max_us, index, "|", color=colour)
        ratio = report.ratio(row, kind)
        axis.annotate(
            f"{figures.p50_us:.0f}" + ("" if ratio is None else f" ({ratio:.2f})"),
            (figures.p50_us, index),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.tick_params(axis="x", labelsize=7)
    axis.set_title(PANELS[kind].format(period=1e3 / report.rate_hz if report.rate_hz else 0.0))
