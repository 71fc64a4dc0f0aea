"""The finetuning's report: one HTML file with its pictures inside, readable without network."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from deploy_kit.files import replace_file

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1c2530; max-width: 1160px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
img { max-width: 100% } .scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
td, th { border: 1px solid #d5dbe1; padding: 0.2rem 0.4rem; text-align: right; white-space: nowrap }
th { font-weight: 600; background: #f2f5f8; white-space: normal; vertical-align: bottom }
td:first-child, th:first-child { text-align: left } small, .note { color: #5b6773 }
"""

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
    text = _page(metrics, plots)
    replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _page(metrics: dict[str, Any], plots: Sequence[Path]) -> str:
    judged, threshold = metrics["judged_on"], metrics["threshold"]
    test = judged["test"]
    facts = {
        "Policy": f"{metrics['policy']['path']} ({metrics['policy']['sha256']:.12}…)",
        "Features": f"{metrics['dataset']['path']} ({metrics['dataset']['sha256']:.12}…)",
        "Training rows": f"{metrics['dataset']['training_rows']:,}",
        "Judged on": f"{test['rows']:,} test rows, {judged['source']}, {test['prevalence']:.2%} positive",
        "Threshold": f"logit {threshold['logit']:.4f}, probability {threshold['probability']:.3f}: {threshold['rule']}",
        "Correction": _correction(metrics["correction"]),
        "Solver": f"{metrics['options']['solver']}, {_course(metrics)}",
    }
    parts = ["<h1>Gate head: finetuning</h1>", _verdict(metrics)]
    for plot in sorted(plots, key=lambda plot: list(_PICTURES).index(plot.stem)):
        data = base64.b64encode(plot.read_bytes()).decode()
        title = _PICTURES[plot.stem]
        parts.append(f'<h2>{title}</h2><img alt="{title}" src="data:image/png;base64,{data}">')
    parts += [
        *(_comparison(metrics["comparison"], attack, title) for attack, title in _ATTACKS.items()),
        "<p class=note>In brackets: 95 % interval over resampled test episodes.</p>",
        "<h2>What was trained, on what</h2>",
        _facts(facts),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Gate head: finetuning</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n<p class=note>deploy-kit {escape(metrics['tool_version'])}, "
        f"{escape(metrics['created_utc'])}</p></body></html>\n"
    )


def _verdict(metrics: dict[str, Any]) -> str:
    """Say in words what came out, with what must be known to believe it."""
    before, after, judged = metrics["before"], metrics["after"], metrics["judged_on"]
    lines = [f"<b>AUROC on the test rows: {before['auroc']:.3f} before, {after['auroc']:.3f} after.</b>"]
    if "event_hit_rate" in after:
        lines.append(
            f"<b>At the threshold the detector finds {after['event_hit_rate']:.0%} of the passages, with "
            f"{after['event_false_alarms_per_minute']:.1f} false alarms a minute</b> "
            f"(before: {before['event_hit_rate']:.0%} and {before['event_false_alarms_per_minute']:.1f})."
        )
    else:
        lines.append(f"<b>Of steps: precision {after['precision']:.2f}, recall {after['recall']:.2f}.</b>")
    lines.append(escape(f"Threshold: {metrics['threshold']['rule']}."))
    if not metrics["threshold"]["rule_kept"]:
        lines.append(f"<b>No threshold keeps {escape(metrics['options']['threshold_rule'])}.</b>")
    if not judged["natural_prevalence"]:
        lines.append(f"<b>These figures flatter:</b> they come from {escape(judged['source'])}, not from flights.")
    lines.append(escape(f"Gate head before: {metrics['policy']['gate_head']}."))
    return "".join(f"<p>{line}</p>" for line in lines)


def _facts(facts: dict[str, str]) -> str:
    rows = "".join(
        f"<tr><td>{name}</td><td style='text-align:left'>{escape(text)}</td></tr>" for name, text in facts.items()
    )
    return f"<div class=scroll><table>{rows}</table></div>"


def _comparison(comparison: dict[str, Any], attack: str, title: str) -> str:
    heads = {name: found[attack] for name, found in comparison.items() if attack in found}
    names = list(dict.fromkeys(name for found in heads.values() for name in found))
    head = "".join(f"<th>{name.removeprefix('event_').replace('_', ' ')}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(_cell(found.get(figure)) for figure in names)}</tr>"
        for name, found in heads.items()
    )
    return f"<h2>{title}</h2><div class=scroll><table><tr><th>head</th>{head}</tr>{rows}</table></div>"


def _cell(figure: dict[str, float | None] | None) -> str:
    if figure is None:
        return "<td>–</td>"
    if figure["low"] is None:
        return f"<td>{figure['value']:.3f}</td>"
    return f"<td>{figure['value']:.3f}<br><small>[{figure['low']:.3f}, {figure['high']:.3f}]</small></td>"


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
