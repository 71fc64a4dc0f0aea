"""Where a report's page lies, so that it is never taken for that of another run."""

from pathlib import Path
from types import TracebackType
from typing import Self

from deploy_kit.errors import DeployKitError, OptionError
from deploy_kit.files import replace_file
from deploy_kit.page.render import GENERATOR, write_page
from deploy_kit.verify.outputs.evidence import Evidence
from deploy_kit.verify.report import VerifyReport


class PageFile:
    """The page beside a report. Use it as a context manager around the run.

    Args:
        report: the report's file; the page has its name, ending in ``.html``.

    Raises:
        OptionError: something lies there that deploy-kit did not write.
    """

    def __init__(self, report: Path) -> None:
        self.path = page_path(report)
        self._before: bytes | None = None
        if not self.path.exists() and not self.path.is_symlink():
            return
        if self.path.is_symlink() or not self.path.is_file() or GENERATOR.encode() not in _head(self.path):
            raise OptionError(
                f"{self.path} is no page of deploy-kit and is not overwritten; move it away, or give another --report"
            )

    def __enter__(self) -> Self:
        """Take the page of an earlier run away: a run that is killed leaves none."""
        if self.path.exists():
            self._before = self.path.read_bytes()
            self.path.unlink()
        return self

    def finish(self, report: VerifyReport, evidence: Evidence | None) -> None:
        """Write the page of the finished run."""
        # Imported here: a run whose options are refused must not wait for matplotlib.
        from deploy_kit.verify.outputs.page import verify_page

        write_page(self.path, verify_page(report, evidence))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What the user can mend, and Ctrl-C, leaves page and report as they were.
        before = self._before
        if before is not None and isinstance(error, (DeployKitError, KeyboardInterrupt)):
            replace_file(self.path, lambda temporary: temporary.write_bytes(before))


def page_path(report: Path) -> Path:
    """Return where the page of a report lies."""
    return report.with_name(report.name + ".html") if report.suffix == ".html" else report.with_suffix(".html")


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2000)
