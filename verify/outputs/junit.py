"""The verdicts as JUnit's XML, which continuous integration services show as test results."""

import xml.etree.ElementTree as ET
from itertools import groupby
from pathlib import Path

from deploy_kit.errors import OptionError
from deploy_kit.files import replace_file
from deploy_kit.text import printable
from deploy_kit.verify.report import Status, VerifyReport
from deploy_kit.verify.table import table_rows


def junit_xml(report: VerifyReport) -> bytes:
    """Return the report as JUnit's XML: one suite a room of checks, one test case a check."""
    pairs = list(zip(table_rows(report), report.verdicts, strict=True))
    root = ET.Element("testsuites", {"name": "deploy-kit verify", **_counts([verdict.status for _, verdict in pairs])})
    root.set("time", f"{report.elapsed_s:.3f}")
    for room, group in groupby(pairs, key=lambda pair: pair[1].name.split("/")[0]):
        members = list(group)
        counts = _counts([verdict.status for _, verdict in members])
        suite = ET.SubElement(
            root, "testsuite", {"name": printable(room), "timestamp": printable(report.created_utc), **counts}
        )
        for row, verdict in members:
            case = ET.SubElement(suite, "testcase", classname=f"verify.{printable(room)}", name=printable(verdict.name))
            reasons = [printable(reason) for reason in verdict.reasons]
            if verdict.status is Status.FAILED:
                failure = ET.SubElement(case, "failure", message=reasons[0] if reasons else "failed", type="check")
                failure.text = "\n".join(reasons)
            elif verdict.status is Status.NOT_RUN:
                ET.SubElement(case, "skipped", message=reasons[0] if reasons else "not run")
            said = [row.compared, f"worst: {row.worst}", f"limit: {verdict.limit}"]
            ET.SubElement(case, "system-out").text = "\n".join(map(printable, said))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def write_junit(path: Path, report: VerifyReport) -> None:
    """Write the report as JUnit's XML, over an earlier one.

    Raises:
        OptionError: something else lies there.
        InputError: nothing can be written there.
    """
    require_junit_or_nothing(path)
    content = junit_xml(report)
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def require_junit_or_nothing(path: Path) -> None:
    """Check that nothing but JUnit's XML would be overwritten.

    Raises:
        OptionError: something else lies there.
    """
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_file() or b"<testsuites" not in path.read_bytes()[:300]:
        raise OptionError(f"--junit {path} is no JUnit file and is not overwritten; move it away, or give another name")


def _counts(statuses: list[Status]) -> dict[str, str]:
    return {
        "tests": str(len(statuses)),
        "failures": str(statuses.count(Status.FAILED)),
        "skipped": str(statuses.count(Status.NOT_RUN)),
        "errors": "0",
    }
