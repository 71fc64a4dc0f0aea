"""Says what a report holds, verdict first, as plain JSON values for ``deploy-kit inspect``."""

from pathlib import Path
from typing import Any

from deploy_kit.errors import InputError
from deploy_kit.files import read_json_object
from deploy_kit.verify.report import Status, VerifyReport


def describe_report(path: Path) -> dict[str, Any]:
    """Return a report's verdict, made afresh from its figures, and what was verified against what.

    Raises:
        InputError: it is no report, or of another schema.
    """
    data = read_json_object(path)
    try:
        report = VerifyReport.from_json(data)
        verdicts = report.verdicts
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{path} is not a whole report ({type(error).__name__}: {error}): run deploy-kit verify again"
        ) from error
    described = {
        "verdict": "VERIFIED" if report.passed else "FAILED",
        "path": str(path),
        "checks": {verdict.name: "; ".join([str(verdict.status), *verdict.reasons]) for verdict in verdicts},
        "counts": {str(status): sum(verdict.status is status for verdict in verdicts) for status in Status},
        "subject": report.subject,
        "created_utc": report.created_utc,
        "elapsed_s": report.elapsed_s,
        "environment": report.environment,
        "options": report.options,
        "thresholds": report.thresholds.to_json(),
    }
    if data.get("passed") is not report.passed:
        described["contradiction"] = f"the file says passed: {data.get('passed')}, its figures say {report.passed}"
    return described
