"""What ``deploy-kit verify`` shows and writes of a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from deploy_kit.bundle.thresholds import PROFILES, load_profile
from deploy_kit.cli.console import stdout
from deploy_kit.cli.options import next_command
from deploy_kit.errors import OptionError

if TYPE_CHECKING:
    from deploy_kit.verify.report import VerifyReport


def show_next(bundle: Path) -> None:
    """Print the command that comes after a verified bundle, where there is one."""
    from deploy_kit.bundle.policy_reader import is_policy_bundle

    # Flights with figures of gates are the racing policy's.
    if not is_policy_bundle(bundle):
        stdout.print(next_command("fly", bundle))


@dataclass(frozen=True)
class Outputs:
    """What is written of a report besides the report and its page."""

    junit: Path | None
    summary: Path | None

    def check(self) -> None:
        """Refuse before the long work what could not be written after it."""
        if self.junit is not None:
            from deploy_kit.verify.outputs.junit import require_junit_or_nothing

            require_junit_or_nothing(self.junit)

    def write(self, report: "VerifyReport", page: Path | None) -> None:
        """Write the files, and say where."""
        from deploy_kit.verify.outputs.junit import write_junit
        from deploy_kit.verify.outputs.markdown import append_summary

        if self.junit is not None:
            write_junit(self.junit, report)
        if self.summary is not None:
            append_summary(self.summary, report)
        for path in filter(None, (page, self.junit, self.summary)):
            stdout.print(f"Wrote {path}")


def judge_again(
    path: Path, profile: str | None, target: Path | None, require_complete: bool, also: Outputs
) -> NoReturn:
    """Judge a report's figures under a profile, or under its own limits, and exit."""
    from deploy_kit.verify.outputs.page_file import PageFile, page_path
    from deploy_kit.verify.report_file import ReportFile
    from deploy_kit.verify.summary import beside, read_report

    report = read_report(path)
    if profile is not None:
        report = report.judged(load_profile(profile))
    elif (name := report.thresholds.profile) in PROFILES and report.thresholds != load_profile(name):
        raise OptionError(f"{path}: its limits are not those of this deploy-kit's {name}; judge by --profile {name}")
    if target is not None:
        with PageFile(target) as page:
            ReportFile(target, path.parent).finish(report)
            page.finish(report, None)
    also.write(report, None if target is None else page_path(target))
    show(report, target or path)
    stdout.print(f"Judged again, nothing was run: {beside(path, report)}")
    raise click.exceptions.Exit(0 if report.passed and (report.complete or not require_complete) else 1)


NARROW_TERMINAL = 100
"""Columns below which a check's figures are shown beneath its name."""


def show(report: "VerifyReport", path: Path) -> None:
    """Print a report: a row a check, its limits, where it lies, the verdict."""
    from rich.table import Table
    from rich.text import Text

    from deploy_kit.verify.report_file import kept_path
    from deploy_kit.verify.table import table_rows

    rows = table_rows(report)
    colours = {"passed": "green", "not run": "yellow"}
    table = Table(box=None, pad_edge=False, show_header=False)
    # In a narrow terminal what was measured goes below the check: beside it, its words would be broken.
    narrow = stdout.is_terminal and stdout.console.width < NARROW_TERMINAL
    for options in ({}, {"overflow": "fold"} if narrow else {"no_wrap": True}, {"justify": "right"}):
        table.add_column(**options)
    if not narrow:
        table.add_column(overflow="fold")
    for row in rows:
        colour = colours.get(row.verdict, "bold red")
        measured = row.compared if row.worst in ("none", "") else f"worst {row.worst}"
        lines = [Text(line) for line in filter(None, [measured, row.flipped and f"decisions flipped: {row.flipped}"])]
        lines += [Text(reason, style=colour) for reason in row.reasons]
        first = Text(row.verdict, style=colour)
        if narrow:
            table.add_row(first, Text("\n").join([Text(row.check), *lines]), row.count)
        else:
            table.add_row(first, row.check, row.count, Text("\n").join(lines))
    stdout.print(table)
    # What is narrow is judged by a profile of its own, so that its limits are not those of the checks of the same room.
    profiles = [getattr(check, "profile", None) for check in report.checks]
    limits = dict.fromkeys(zip((row.limit for row in rows), profiles, strict=True))
    for limit, profile in (pair for pair in limits if pair[0] not in ("", "all hold")):
        checks = [row.check for row, own in zip(rows, profiles, strict=True) if (row.limit, own) == (limit, profile)]
        of = checks[0] if len(checks) == 1 else ", ".join(dict.fromkeys(check.split("/")[0] for check in checks))
        stdout.print(Text(f"limit of {of}{f', profile {profile}' if profile else ''}: {limit}"))
    others = ", ".join(report.other_profiles)
    stdout.print(f"Limits: profile {report.thresholds.profile}{f'; of what is narrow: {others}' if others else ''}")
    if report.certificate is not None:
        stdout.print(Text(str(report.certificate)))
    for found in report.diagnosis:
        stdout.print(Text(str(found), style="bold red"))
    stdout.print(f"Report: {path}")
    if report.replaces is not None and report.replaces.passed and not report.passed:
        of = "these files" if report.replaces.same_bundle else "another bundle"
        stdout.print(f"It replaces a report of {of} that had passed ({report.replaces.created_utc})")
    replaced = report.replaces
    if replaced is not None and replaced.same_bundle and replaced.complete and replaced.passed and not report.complete:
        kept = kept_path(path)
        stdout.print(f"It is not complete; the complete report of {replaced.created_utc} is kept as {kept}")
    for check in report.left_out:
        stdout.print(Text(f"{check.name} was not run, and no option switched it off", style="bold red"))
    skipped = sum(row.verdict == "not run" for row in rows)
    note = f", {skipped} checks not run" if skipped else ""
    verdict = "VERIFIED" if report.passed else "FAILED"
    stdout.print(Text(verdict + note, style="bold green" if report.passed else "bold red"))
