"""Adds a diagnosis to a report in which something failed, of whichever kind of policy it is."""

from collections.abc import Callable
from dataclasses import replace

from deploy_kit.verify.opening import attempt
from deploy_kit.verify.report import Diagnosis, Status, VerifyReport


def diagnosed(report: VerifyReport, diagnose: Callable[[set[str]], tuple[Diagnosis, ...]]) -> VerifyReport:
    """Return a report with a diagnosis of what failed in it; as it is, if nothing did.

    Args:
        report: with all its checks.
        diagnose: returns the likely causes of the checks that failed, by their names. What it raises is reported.
    """
    failed = {verdict.name for verdict in report.verdicts if verdict.status is Status.FAILED}
    if not failed:
        return report
    found, problem = attempt(lambda: diagnose(failed))
    if found is None:
        found = (Diagnosis("diagnosis", None, None, None, f"could not be made: {problem}"),)
    return replace(report, diagnosis=found)
