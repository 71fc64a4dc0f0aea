"""The demo's page."""

from deploy_kit.finetuning.run import FinetuneResult
from deploy_kit.flight.fly import FlyResult
from deploy_kit.page.blocks import Cell, Page, Section, Table, Tone, Verdict
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.table import table_rows


def demo_page(name: str, finetuned: FinetuneResult, report: VerifyReport, flight: FlyResult) -> Page:
    """Return the demo's page: the verdict, the flights, and what each step gave.

    Args:
        name: name of the policy's file.
        finetuned: gate head before and after.
        report: report of the verification.
        flight: flight of the bundle, with pictures.
    """
    assert flight.page is not None, "the demo's flight has pictures"
    before, after, statistics = finetuned.before, finetuned.after, flight.statistics
    lines = [
        f"Exported policy: {statistics.gates_per_episode.mean:.2f} gates per flight, "
        f"{statistics.crash_rate.mean:.0%} of {statistics.episodes} flights crashed.",
        f"Gate head: AUROC {before['auroc']:.3f} before finetuning, {after['auroc']:.3f} after.",
    ]
    if report.worst_share is not None:
        check, share = report.worst_share
        lines.insert(0, f"Largest error of the exported files: {share:.2f} of its limit, in {check}.")
    figures = {
        "auroc": "AUROC",
        "average_precision": "average precision",
        "event_hit_rate": "passages found",
        "event_false_alarms_per_minute": "false alarms a minute",
    }
    head = tuple(
        (Cell(shown), Cell(f"{before[key]:.3f}"), Cell(f"{after[key]:.3f}"))
        for key, shown in figures.items()
        if key in before and key in after
    )
    tones: dict[Status, Tone] = {Status.PASSED: "good", Status.FAILED: "bad", Status.NOT_RUN: "warn"}
    checks = tuple(
        (Cell(row.check), Cell(row.count), Cell(row.worst), Cell(verdict.status.value, tone=tones[verdict.status]))
        for row, verdict in zip(table_rows(report), report.verdicts, strict=True)
    )
    return Page(
        title=f"deploy-kit demo: {name}",
        verdict=Verdict("VERIFIED" if report.passed else "FAILED", "good" if report.passed else "bad", tuple(lines)),
        sections=(
            *flight.page.sections,
            Section("Gate head", (Table("Figures on the test episodes", ("figure", "before", "after"), head),)),
            Section(
                "What was verified", (Table("Checks", ("check", "count", "worst", "verdict"), checks, numeric=False),)
            ),
        ),
        footer=flight.page.footer,
    )
