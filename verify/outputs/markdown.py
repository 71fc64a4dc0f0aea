"""The verdict as Markdown, for a pull request or a job's summary."""

from pathlib import Path

from deploy_kit.errors import InputError
from deploy_kit.text import printable
from deploy_kit.verify.findings import FlightCheck
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.table import table_rows

_MEANT = "&<>\"'|`*_[]()#~@:!\\{}$"
"""Characters that Markdown, HTML or GitHub (mentions, issues, links) give a meaning to."""

_SIGNS = {Status.PASSED: "✅", Status.FAILED: "❌", Status.NOT_RUN: "⚠️"}


def markdown_summary(report: VerifyReport) -> str:
    """Return the report in a few lines and a table: verdict, worst error, flights, then what failed or was not run."""
    verdicts = report.verdicts
    counts = [f"{sum(verdict.status is status for verdict in verdicts)} {status.value}" for status in Status]
    lines = [
        f"### {_headline(report)}",
        "",
        f"Bundle {_plain(report.subject.bundle)} against checkpoint {_plain(report.subject.checkpoint)} "
        f"(sha256 {report.subject.checkpoint_sha256[:12]}…). Checks: {', '.join(counts)}.",
    ]
    if report.worst_share is not None:
        check, share = report.worst_share
        lines += ["", f"Largest error: {share:.2f} of its limit, in {_plain(check)}."]
    flights = [check for check in report.checks if isinstance(check, FlightCheck) and check.differences]
    if flights:
        lines += ["", "| flights | checkpoint | bundle | difference, 95 % |", "|---|---:|---:|---:|"]
        for flight in flights:
            lines += [
                f"| {_plain(flight.name)}, {_plain(figure.name)} | {figure.reference:.3f} | {figure.candidate:.3f} | "
                f"{figure.ci95[0]:+.3f} … {figure.ci95[1]:+.3f} |"
                for figure in flight.differences
            ]
    bad = [verdict for verdict in verdicts if verdict.status is not Status.PASSED]
    if bad:
        lines += ["", "| | check | why |", "|---|---|---|"]
        lines += [
            f"| {_SIGNS[verdict.status]} {verdict.status.value} | {_plain(verdict.name)} | "
            f"{'<br>'.join(map(_plain, verdict.reasons))} |"
            for verdict in bad
        ]
    lines += ["", "<details><summary>All checks</summary>", "", "| | check | count | worst |", "|---|---|---:|---|"]
    lines += [
        f"| {_SIGNS[verdict.status]} | {_plain(row.check)} | {_plain(row.count)} | {_plain(row.worst)} |"
        for row, verdict in zip(table_rows(report), verdicts, strict=True)
    ]
    return "\n".join([*lines, "", "</details>", ""])


def append_summary(path: Path, report: VerifyReport) -> None:
    """Append the summary to a file, as GitHub's ``$GITHUB_STEP_SUMMARY`` wants it; what is there stays.

    Raises:
        InputError: nothing can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(markdown_summary(report))
    except OSError as error:
        raise InputError(f"--summary {path} cannot be written: {error.strerror or error}") from error


def _headline(report: VerifyReport) -> str:
    if not report.passed:
        return "❌ FAILED"
    return "✅ VERIFIED" if report.complete else "⚠️ VERIFIED, but not complete"


def _plain(text: str) -> str:
    """Return text from a file so that it is shown as it is."""
    return "".join(f"&#{ord(c)};" if c in _MEANT else c for c in printable(text))
