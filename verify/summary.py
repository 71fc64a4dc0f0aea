"""Says what a report holds, verdict first, and whether a bundle is the one that was verified; for `inspect`."""

from pathlib import Path
from typing import Any

from deploy_kit.bundle.codec import encode
from deploy_kit.bundle.reader import MANIFEST_NAME
from deploy_kit.errors import InputError
from deploy_kit.files import read_json_object
from deploy_kit.verify.opening import attempt, manifest_sha256
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.report_file import REPORT_NAME


def read_report(path: Path) -> VerifyReport:
    """Return a report.

    Raises:
        InputError: it is no report, or of another schema.
    """
    return _report_of(read_json_object(path), path)


def _report_of(data: dict[str, Any], path: Path) -> VerifyReport:
    try:
        report = VerifyReport.from_json(data)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    # Figures of the right types may still be impossible.
    verdicts, problem = attempt(lambda: report.verdicts)
    if verdicts is None:
        raise InputError(f"{path} is not a whole report ({problem}): run deploy-kit verify again")
    return report


def describe_report(path: Path) -> dict[str, Any]:
    """Return a report's verdict, made afresh from its figures, and what was verified against what.

    Raises:
        InputError: it is no report, or of another schema.
    """
    data = read_json_object(path)
    report = _report_of(data, path)
    verdicts = report.verdicts
    described = {
        "verdict": "VERIFIED" if report.passed else "FAILED",
        "complete": report.complete,
        "path": str(path),
        "bundle_beside": beside(path, report),
        "checks": {verdict.name: "; ".join([str(verdict.status), *verdict.reasons]) for verdict in verdicts},
        "counts": {str(status): sum(verdict.status is status for verdict in verdicts) for status in Status},
        "subject": encode(report.subject),
        "runtimes": encode(report.runtimes),
        "created_utc": report.created_utc,
        "elapsed_s": report.elapsed_s,
        "environment": report.environment,
        "options": report.options,
        "thresholds": report.thresholds.to_json(),
        "replaces": encode(report.replaces),
    }
    if data.get("passed") is not report.passed:
        described["contradiction"] = f"the file says passed: {data.get('passed')}, its figures say {report.passed}"
    return described


def beside(path: Path, report: VerifyReport) -> str:
    """Return whether the bundle in a report's folder is the one that the report is of, in words."""
    if not (path.parent / MANIFEST_NAME).is_file():
        return "no bundle lies beside this report"
    if same_files(path.parent, report):
        return "this report is of the bundle beside it"
    return "this report is of ANOTHER bundle than the one beside it"


def same_files(folder: Path, report: VerifyReport) -> bool:
    """Return whether a bundle's manifest is the one that a report is of."""
    found = manifest_sha256(folder)
    return found is not None and found == report.subject.manifest_sha256


def describe_verification(folder: Path) -> dict[str, Any]:
    """Return what the report in a bundle's folder says, and whether it is of these very files."""
    path = folder / REPORT_NAME
    if not path.exists():
        return {"state": "not verified: no report lies beside the bundle"}
    try:
        report = read_report(path)
    except InputError as error:
        return {"state": f"not verified: {error}"}
    if not same_files(folder, report):
        return {"state": f"not verified: {path.name} is of ANOTHER bundle"}
    partly = "" if report.complete else ", but for what was switched off"
    return {
        "state": f"verified{partly}" if report.passed else "verification FAILED",
        "checkpoint_sha256": report.subject.checkpoint_sha256,
        "profile": report.thresholds.profile,
        "created_utc": report.created_utc,
        "runtimes": encode(report.runtimes),
    }
