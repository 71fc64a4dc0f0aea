"""The finetuning's report: one HTML file with its pictures inside, readable without network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy_kit.page.blocks import Cell, Facts, Page, Picture, Section, Table, Verdict
from deploy_kit.page.render import write_page

_ATTACKS = {
    "clean": "As flown",
    "pgd": "Features attacked as in training",
    "worst_case": "Features at the edge of the attack's ball",
}

_PICTURES = {
    "curves": "Ranking and decisions",
    "events": "Passages on a timeline",
    "reliability": "Reliability",
    "probabilities": "Probability by class",
    "training": "Training",
}
"""Titles, in the order in which pictures are shown."""


def write_report(path: Path, metrics: dict[str, Any], plots: Sequence[Path]) -> None:
    """Write the report.

    Args:
        path: target, replaced atomically.
        metrics: the content of metrics.json.
        plots: pictures to put in.
    """
    write_page(path, _page(metrics, plots))


def _page(metrics: dict[str, Any], plots: Sequence[Path]) -> Page:
    shown = sorted(plots, key=lambda plot: list(_PICTURES).index(plot.stem))
    pictures = [
        Section(_PICTURES[plot.stem], (Picture(plot.read_bytes(), alt=_PICTURES[plot.stem]),)) for plot in shown
    ]
    figures = tuple(_comparison(metrics["comparison"], attack, title) for attack, title in _ATTACKS.items())
    return Page(
        title="Head: finetuning",
        verdict=_verdict(metrics),
        sections=(
            *pictures,
            Section("Figures on the test rows, with 95 % intervals over resampled episodes", figures),
            Section("What was trained, on what", (Facts(_facts(metrics)),)),
        ),
        footer=f"deploy-kit {metrics['tool_version']}, {metrics['created_utc']}",
    )


def _facts(metrics: dict[str, Any]) -> dict[str, str]:
    judged, threshold = metrics["judged_on"], metrics["threshold"]
    test = judged["test"]
    return {
        "Policy": f"{metrics['policy']['path']} ({metrics['policy']['sha256']:.12}…)",
        "Features": f"{metrics['dataset']['path']} ({metrics['dataset']['sha256']:.12}…)",
        "Training rows": f"{metrics['dataset']['training_rows']:,}",
        "Judged on": f"{test['rows']:,} test rows, {judged['source']}, {test['prevalence']:.2%} positive",
        "Threshold": f"logit {threshold['logit']:.4f}, probability {threshold['probability']:.3f}: {threshold['rule']}",
        "Correction": _correction(metrics["correction"]),
        "Solver": f"{metrics['options']['solver']}, {_course(metrics)}",
    }


def _verdict(metrics: dict[str, Any]) -> Verdict:
    """Say in words what came out, with what must be known to believe it."""
    before, after, judged = metrics["before"], metrics["after"], metrics["judged_on"]
    lines = []
    if "event_hit_rate" in after:
        lines.append(
            f"At the threshold the detector finds {after['event_hit_rate']:.0%} of the passages, with "
            f"{after['event_false_alarms_per_minute']:.1f} false alarms a minute "
            f"(before: {before['event_hit_rate']:.0%} and {before['event_false_alarms_per_minute']:.1f})."
        )
    else:
        lines.append(f"Of steps: precision {after['precision']:.2f}, recall {after['recall']:.2f}.")
    lines.append(f"Threshold: {metrics['threshold']['rule']}.")
    kept, natural = metrics["threshold"]["rule_kept"], judged["natural_prevalence"]
    if not kept:
        lines.append(f"No threshold keeps {metrics['options']['threshold_rule']}.")
    if not natural:
        lines.append(f"These figures flatter: they come from {judged['source']}, not from flights.")
    lines.append(f"Head before: {metrics['policy']['gate_head']}.")
    headline = f"AUROC on the test rows: {before['auroc']:.3f} before, {after['auroc']:.3f} after."
    return Verdict(headline, "plain" if kept and natural else "warn", tuple(lines))


def _comparison(comparison: dict[str, Any], attack: str, title: str) -> Table:
    heads = {name: found[attack] for name, found in comparison.items() if attack in found}
    names = list(dict.fromkeys(name for found in heads.values() for name in found))
    columns = ("head", *(name.removeprefix("event_").replace("_", " ") for name in names))
    rows = ((Cell(name), *(_cell(found.get(figure)) for figure in names)) for name, found in heads.items())
    return Table(title, columns, tuple(rows))


def _cell(figure: dict[str, float | None] | None) -> Cell:
    if figure is None:
        return Cell("–")
    interval = "" if figure["low"] is None else f"[{figure['low']:.3f}, {figure['high']:.3f}]"
    return Cell(f"{figure['value']:.3f}", interval)


def _course(metrics: dict[str, Any]) -> str:
    found = metrics["certificate"]
    if found is None:
        return f"{len(metrics['epochs'])} epochs, best on validation: {metrics['best_epoch']}"
    return f"loss {found['loss']:.6f}, at most {found['gap']:.2g} above any head's within its radius"


def _correction(correction: dict[str, float] | None) -> str:
    if correction is None:
        return "none: the probability is right for the training rows' class balance"
    return (
        f"trained at {correction['training_prior']:.1%} positives, corrected to {correction['flight_prior']:.2%}, "
        f"temperature {correction['temperature']:.3f}; inside aux_decoder"
    )
