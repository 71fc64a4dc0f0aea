"""Where a report lies: what is there before, what while the run goes on, and what if it does not end.

A report of a run that is not over, or was killed, says so, and is never taken for a good one.
"""

import hashlib
import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from deploy_kit.bundle.reader import BUNDLE_FILES, MANIFEST_NAME, OPTIONAL_FILES, check_files, is_report
from deploy_kit.errors import BundleError, DeployKitError, InputError, OptionError
from deploy_kit.files import MAX_JSON_BYTES, replace_file
from deploy_kit.verify.report import FactCheck, Replaced, VerifyReport

REPORT_NAME = "report.json"
"""Where a bundle's report lies in its folder."""

_KEYS = {"schema_version", "checks", "verdicts", "subject"}
"""What every version's report has."""

UNFINISHED = FactCheck("run/finished", "the verification ran to its end", 1, ("it was cut off: verify again",))
"""The one check of a report whose run is not over."""


def kept_path(path: Path) -> Path:
    """Return where the complete report is kept that an incomplete one of the same bundle replaces."""
    return path.with_name(f"{path.stem}-complete{path.suffix}")


class ReportFile:
    """The file that a report goes to. Use it as a context manager around the run.

    A complete report that had passed is not lost to an incomplete one of the same bundle: it stays beside it, as
    `kept_path` says.

    Args:
        path: of the report.
        bundle: the bundle's folder.

    Raises:
        OptionError: something lies there that is no report, or the place is that of a bundle's own file.
    """

    def __init__(self, path: Path, bundle: Path) -> None:
        self.path = path
        self._before = _read(path)
        self._found = None if self._before is None else _parse(self._before)
        if self._before is not None and self._found is None:
            raise OptionError(
                f"{path} is no report of deploy-kit and is not overwritten; move it away, or give --report"
                + _listed(path, bundle)
            )
        if path.parent.resolve() == bundle.resolve() and not (is_report(path.name) and path.suffix == ".json"):
            own = (
                "a file of the bundle"
                if path.name in (*BUNDLE_FILES, *OPTIONAL_FILES, MANIFEST_NAME)
                else "in the bundle's folder"
            )
            raise OptionError(f"--report {path} is {own}; there, a report's name is report.json or report-NAME.json")
        self._begun = False
        self._kept = False

    def replaced(self, manifest_sha256: str | None) -> Replaced | None:
        """Return what lies there now.

        Args:
            manifest_sha256: of the manifest of the bundle that is being verified, None if it cannot be read.
        """
        if self._before is None or self._found is None:
            return None
        subject, created = self._found.get("subject"), self._found.get("created_utc")
        earlier = subject.get("manifest_sha256") if isinstance(subject, dict) else None
        passed, complete = self._found.get("passed"), self._found.get("complete")
        return Replaced(
            sha256=hashlib.sha256(self._before).hexdigest(),
            created_utc=created if isinstance(created, str) else None,
            passed=passed if isinstance(passed, bool) else None,
            complete=complete if isinstance(complete, bool) else None,
            same_bundle=earlier is not None and earlier == manifest_sha256,
        )

    def begin(self, unfinished: VerifyReport) -> None:
        """Put a report in place that has not passed, for the case that the run never ends.

        Raises:
            InputError: nothing can be written there.
        """
        self._keep(unfinished)
        unfinished.write(self.path)
        self._begun = True

    def finish(self, report: VerifyReport) -> None:
        """Put the report of the finished run in place."""
        if not self._begun:
            self._keep(report)
        report.write(self.path)
        self._begun = False
        if report.complete:
            self._let_go()

    def _keep(self, report: VerifyReport) -> None:
        """Keep what lies here, if it is complete, has passed and is of the same bundle."""
        before, earlier = self._before, self.replaced(report.subject.manifest_sha256)
        if before is None or earlier is None or not (earlier.same_bundle and earlier.passed and earlier.complete):
            return
        kept = kept_path(self.path)
        there = _read(kept)
        if there is not None and _parse(there) is None:
            raise OptionError(
                f"{kept} is no report of deploy-kit, and {self.path.name} would be kept there; move it away"
            )
        replace_file(kept, lambda temporary: temporary.write_bytes(before))
        self._kept = True

    def _let_go(self) -> None:
        if self._kept:
            kept_path(self.path).unlink(missing_ok=True)
            self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What the user can mend, and Ctrl-C, leaves the file as it was; after anything else it stays unfinished.
        if not self._begun or not isinstance(error, (DeployKitError, KeyboardInterrupt)):
            return
        before = self._before
        if before is None:
            self.path.unlink(missing_ok=True)
        else:
            replace_file(self.path, lambda temporary: temporary.write_bytes(before))
        self._let_go()


def _listed(path: Path, bundle: Path) -> str:
    """Return a hint where a bundle's manifest lists what is in a report's place, which makes it no bundle of ours."""
    if path.parent.resolve() != bundle.resolve():
        return ""
    try:
        check_files(bundle)
    except BundleError as error:
        return f" ({error})"
    return ""


def _read(path: Path) -> bytes | None:
    if not path.exists() and not path.is_symlink():
        return None
    if path.is_symlink() or not path.is_file():
        raise OptionError(f"{path} is no regular file and is not overwritten; give another --report")
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise OptionError(f"{path} is too large for a report and is not overwritten; give another --report")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}; give another --report") from error


def _parse(data: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a report of any version, None if it is none."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and set(found) >= _KEYS else None
