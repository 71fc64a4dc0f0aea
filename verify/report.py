"""What a verification found: figures first, verdicts from them, a table and a file to read.

The figures are stored apart from the verdicts, so that a report can be judged again under other thresholds without
running anything: `VerifyReport.from_json(data).judged(thresholds)`.
"""

import json
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from deploy_kit.bundle.differences import ChannelError, DecisionParity, OutputParity
from deploy_kit.bundle.parity import Limit, ParityCheck, judge_parity, share_of_tolerance, tolerance_of
from deploy_kit.bundle.thresholds import Thresholds
from deploy_kit.errors import InputError
from deploy_kit.files import replace_file
from deploy_kit.flight.paired import PairedDifference

SCHEMA_VERSION = 2
"""Version of report.json; raised whenever a field changes its meaning, appears or goes."""


class Status(StrEnum):
    """Outcome of one check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class FactCheck:
    """Facts that either hold or do not.

    Attributes:
        name: of the check.
        compared: what with what.
        count: how many facts were looked at.
        problems: those that do not hold, one line each.
        note: what a reader should know besides.
    """

    name: str
    compared: str
    count: int
    problems: tuple[str, ...]
    note: str | None = None


@dataclass(frozen=True)
class FlightCheck:
    """Flights of the artifact against flights of the checkpoint, paired by seed.

    Attributes:
        name: of the check.
        compared: what with what.
        differences: paired differences of gates, crashes and speed.
        reference: statistics with the checkpoint driving, as `FlightStatistics.to_json` gives them.
        candidate: the same with the artifact driving.
        paired: whether the environment repeated itself, so that each pair of episodes began alike.
        note: what a reader should know besides.
    """

    name: str
    compared: str
    differences: tuple[PairedDifference, ...]
    reference: dict[str, Any]
    candidate: dict[str, Any]
    paired: bool
    note: str | None = None


@dataclass(frozen=True)
class NotRun:
    """A check that was not run, and why. It is never counted as passed."""

    name: str
    reason: str


Check = FactCheck | ParityCheck | FlightCheck | NotRun

_KINDS: dict[str, type[Any]] = {
    "facts": FactCheck,
    "parity": ParityCheck,
    "flight": FlightCheck,
    "not run": NotRun,
}


@dataclass(frozen=True)
class Verdict:
    """Judgement of one check under given thresholds.

    Attributes:
        name: of the check.
        status: passed, failed or not run.
        limit: the rule that was applied.
        reasons: what broke it, or why it was not run.
    """

    name: str
    status: Status
    limit: str
    reasons: tuple[str, ...]


def judge(check: Check, thresholds: Thresholds) -> Verdict:
    """Return the verdict on a check."""
    if isinstance(check, NotRun):
        return Verdict(check.name, Status.NOT_RUN, "", (check.reason,))
    if isinstance(check, FactCheck):
        limit, reasons = "all hold", check.problems
    elif isinstance(check, ParityCheck):
        limit, reasons = judge_parity(check, thresholds)
    else:
        limit, reasons = _judge_flight(check, thresholds)
    return Verdict(check.name, Status.FAILED if reasons else Status.PASSED, limit, tuple(reasons))


def _judge_flight(check: FlightCheck, thresholds: Thresholds) -> tuple[str, tuple[str, ...]]:
    margins = {"gates": thresholds.gates_margin, "crashed": thresholds.crash_margin, "speed": thresholds.speed_margin}
    reasons = []
    for figure in check.differences:
        margin = margins[figure.name]
        if not (figure.within(margin) if check.paired else figure.reaches(margin)):
            low, high = figure.ci95
            verb = "leaves" if check.paired else "does not fit"
            reasons.append(
                f"{figure.name}: {figure.reference:.3g} → {figure.candidate:.3g} {_unit(figure.unit)}, the 95 % "
                f"interval of the difference [{low:.2g}, {high:.2g}] {verb} ±{margin:g}"
            )
    if not check.differences:
        reasons.append("nothing was compared")
    rule = (
        "95 % of difference within"
        if check.paired
        else "95 % of difference reaches, and is at most three times as wide as,"
    )
    bounds = (f"{figure.name} ±{margins[figure.name]:g} {_unit(figure.unit)}".rstrip() for figure in check.differences)
    return f"{rule} {', '.join(bounds)}", tuple(reasons)


def _unit(unit: str) -> str:
    return "" if unit == "1" else unit


@dataclass(frozen=True)
class VerifyReport:
    """Everything that a verification found.

    Attributes:
        subject: what was verified against what: paths and hashes.
        environment: versions, providers, platform.
        options: how it was run.
        checks: figures, in the order of running.
        thresholds: the limits of the verdicts.
        elapsed_s: wall time, s.
        created_utc: when, ISO 8601.
    """

    subject: dict[str, Any]
    environment: dict[str, Any]
    options: dict[str, Any]
    checks: tuple[Check, ...]
    thresholds: Thresholds
    elapsed_s: float
    created_utc: str

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Judgements, in the order of the checks."""
        return tuple(judge(check, self.thresholds) for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether at least one check ran and none failed; checks that were not run are named, not counted."""
        statuses = [verdict.status for verdict in self.verdicts]
        return Status.PASSED in statuses and Status.FAILED not in statuses

    @property
    def complete(self) -> bool:
        """Whether every check was run."""
        return all(verdict.status is not Status.NOT_RUN for verdict in self.verdicts)

    @property
    def worst_share(self) -> tuple[str, float] | None:
        """Name of the parity check whose error uses up most of its limit, and that share; None without such a check.

        What is not finite or could not be compared counts as infinite.
        """
        shares = [
            (check.name, share)
            for check in self.checks
            if isinstance(check, ParityCheck)
            for output in check.outputs
            if (share := share_of_tolerance(output, tolerance_of(check, self.thresholds))) is not None
        ]
        return max(shares, key=lambda pair: pair[1], default=None)

    def verdict(self, name: str) -> Verdict:
        """Return the verdict of one check, KeyError if there is no such check."""
        return {verdict.name: verdict for verdict in self.verdicts}[name]

    def judged(self, thresholds: Thresholds) -> "VerifyReport":
        """Return the same figures under other thresholds."""
        return replace(self, thresholds=thresholds)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON: figures under `checks`, verdicts apart from them."""
        return {
            "schema_version": SCHEMA_VERSION,
            "passed": self.passed,
            "complete": self.complete,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
            "thresholds": self.thresholds.to_json(),
            "subject": self.subject,
            "environment": self.environment,
            "options": self.options,
            "created_utc": self.created_utc,
            "elapsed_s": self.elapsed_s,
            "checks": [_check_to_json(check) for check in self.checks],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "VerifyReport":
        """Return the report that `to_json` wrote; verdicts are made afresh.

        Raises:
            InputError: another schema version.
        """
        if data.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"report: schema version {data.get('schema_version')!r}, this deploy-kit reads {SCHEMA_VERSION}; "
                "run `deploy-kit verify` again"
            )
        return cls(
            subject=data["subject"],
            environment=data["environment"],
            options=data["options"],
            checks=tuple(_check_from_json(check) for check in data["checks"]),
            thresholds=Thresholds.from_json(data["thresholds"]),
            elapsed_s=data["elapsed_s"],
            created_utc=data["created_utc"],
        )

    def write(self, path: Path) -> None:
        """Write report.json; an interrupted write leaves the old file."""
        text = json.dumps(self.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _check_to_json(check: Check) -> dict[str, Any]:
    kind = next(kind for kind, cls in _KINDS.items() if isinstance(check, cls))
    return {"kind": kind, **asdict(check)}


def _check_from_json(data: dict[str, Any]) -> Check:
    fields = dict(data)
    cls = _KINDS[fields.pop("kind")]
    if cls is FactCheck:
        fields["problems"] = tuple(fields["problems"])
    elif cls is ParityCheck:
        fields["outputs"] = tuple(OutputParity.from_json(output) for output in fields["outputs"])
        fields["commands"] = tuple(ChannelError(**channel) for channel in fields["commands"])
        fields["decisions"] = None if fields["decisions"] is None else DecisionParity(**fields["decisions"])
        fields["limit"] = Limit(fields["limit"])
    elif cls is FlightCheck:
        fields["differences"] = tuple(PairedDifference.from_json(figure) for figure in fields["differences"])
    check: Check = cls(**fields)
    return check
