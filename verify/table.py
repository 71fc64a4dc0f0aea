"""The report as rows of text, for a terminal or a log."""

import textwrap
from dataclasses import dataclass, fields

from deploy_kit.bundle.parity import ParityCheck, tolerance_of
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.verify.report import (
    Check,
    FactCheck,
    FlightCheck,
    NotRun,
    ReferenceFlight,
    Status,
    Verdict,
    VerifyReport,
)


@dataclass(frozen=True)
class TableRow:
    """One check, as text.

    Attributes:
        check: name.
        compared: what with what.
        count: rows, facts or episodes.
        worst: worst figure and where.
        flipped: gate decisions flipped.
        limit: the rule.
        verdict: passed, FAILED or not run.
        reasons: what broke the rule, or why it was not run.
    """

    check: str
    compared: str
    count: str
    worst: str
    flipped: str
    limit: str
    verdict: str
    reasons: tuple[str, ...]


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(TableRow) if field.name != "reasons")
"""Columns of the table, in order."""


def table_rows(report: VerifyReport) -> list[TableRow]:
    """Return one row a check."""
    return [
        _row(check, verdict, report.thresholds) for check, verdict in zip(report.checks, report.verdicts, strict=True)
    ]


def format_table(report: VerifyReport) -> str:
    """Return the report as plain text: one line a check, reasons below it, the overall verdict last."""
    rows = table_rows(report)
    shown = [[getattr(row, column) for column in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(COLUMNS, *shown, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(COLUMNS, widths, strict=True)).rstrip()]
    lines.append("  ".join("-" * width for width in widths))
    for row, cells in zip(rows, shown, strict=True):
        lines.append("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip())
        for reason in row.reasons:
            lines += textwrap.wrap(reason, 110, initial_indent="    - ", subsequent_indent="      ")
    if report.certificate is not None:
        lines += textwrap.wrap(str(report.certificate), 110, subsequent_indent="  ")
    for found in report.diagnosis:
        lines += textwrap.wrap(str(found), 110, subsequent_indent="  ")
    return "\n".join([*lines, "", summary(report)])


def summary(report: VerifyReport) -> str:
    """Return the overall verdict as one line."""
    counts = {status: sum(verdict.status is status for verdict in report.verdicts) for status in Status}
    verdict = "PASSED" if report.passed else "FAILED"
    numbers = ", ".join(f"{count} {status}" for status, count in counts.items())
    if report.left_out:
        numbers += f" ({len(report.left_out)} of them not switched off)"
    return f"{verdict}: of {len(report.checks)} checks {numbers}, in {report.elapsed_s:.0f} s"


def _row(check: Check, verdict: Verdict, thresholds: Thresholds) -> TableRow:
    shown = "FAILED" if verdict.status is Status.FAILED else verdict.status.value
    if isinstance(check, NotRun):
        return TableRow(check.name, "", "", "", "", "", shown, verdict.reasons)
    if isinstance(check, FactCheck):
        cells = (str(check.count), f"{len(check.problems)} problems" if check.problems else "none", "")
    elif isinstance(check, ParityCheck):
        cells = (f"{check.rows}", _worst_output(check, thresholds), _flipped(check))
    elif isinstance(check, ReferenceFlight):
        cells = (f"{check.episodes}", f"{check.gates:.2f} gates an episode", "")
    else:
        cells = (str(check.differences[0].pairs if check.differences else 0), _flight(check), "")
    reasons = verdict.reasons if check.note is None else (*verdict.reasons, check.note)
    return TableRow(check.name, check.compared, *cells, verdict.limit, shown, reasons)


def _worst_output(check: ParityCheck, thresholds: Thresholds) -> str:
    tolerance = tolerance_of(check, thresholds)
    if broken := next((output for output in check.outputs if output.problem or output.nonfinite), None):
        return f"{broken.name}: {broken.problem or f'{broken.nonfinite} not finite'}"
    worst = [(output, *pair) for output in check.outputs if (pair := output.worst(tolerance)) is not None]
    if not worst:
        return "-"
    output, element, share = max(worst, key=lambda item: item[2])
    return f"{output.name}[{element.channel}] {element.error:.1e} ({share:.2f} of limit) at {element.where}"


def _flipped(check: ParityCheck) -> str:
    return "" if check.decisions is None else f"{check.decisions.flipped} of {check.decisions.decisions}"


def _flight(check: FlightCheck) -> str:
    return ", ".join(
        f"{figure.name} {figure.reference:.2f}→{figure.candidate:.2f} Δ [{figure.ci95[0]:+.2f}, {figure.ci95[1]:+.2f}]"
        for figure in check.differences
    )
