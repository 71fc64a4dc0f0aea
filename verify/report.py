"""What a verification found: figures first, verdicts from them, a file to read.

The figures are stored apart from the verdicts, so that a report can be judged again under other thresholds without
running anything: `VerifyReport.from_json(data).judged(thresholds)`.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deploy_kit.bundle.codec import DecodeError, decode, encode
from deploy_kit.bundle.parity import ParityCheck, share_of_tolerance, tolerance_of
from deploy_kit.bundle.thresholds import PROFILES, Thresholds
from deploy_kit.errors import InputError
from deploy_kit.files import replace_file
from deploy_kit.verify.expected import held_to_options
from deploy_kit.verify.findings import (
    KINDS,
    Certificate,
    Check,
    Diagnosis,
    FactCheck,
    FlightCheck,
    NotRun,
    ReferenceFlight,
)
from deploy_kit.verify.judgement import Status, Verdict, judge

__all__ = [
    "SCHEMA_VERSION",
    "Certificate",
    "Check",
    "Diagnosis",
    "FactCheck",
    "FlightCheck",
    "NotRun",
    "ReferenceFlight",
    "Replaced",
    "Status",
    "Subject",
    "Verdict",
    "VerifiedRuntime",
    "VerifyReport",
    "judge",
]

SCHEMA_VERSION = 3
"""Version of report.json; raised whenever a field changes its meaning, appears or goes."""


@dataclass(frozen=True)
class Subject:
    """What was verified against what.

    Attributes:
        bundle: folder of the bundle, as it was given.
        manifest_sha256: of the bundle's manifest, and so of every file that it lists; null if it could not be read.
        files: sha256 of each file that the manifest lists; empty if the bundle could not be opened.
        checkpoint: the checkpoint's file, as it was given.
        checkpoint_sha256: of that file.
        dataset: the feature file; null without one.
        dataset_sha256: of that file.
    """

    bundle: str
    manifest_sha256: str | None
    files: dict[str, str]
    checkpoint: str
    checkpoint_sha256: str
    dataset: str | None = None
    dataset_sha256: str | None = None


@dataclass(frozen=True)
class VerifiedRuntime:
    """One way to run the graph, which the checks were made with.

    Attributes:
        provider: onnxruntime's execution provider that really ran.
        level: graph optimisation: "disabled", "basic", "extended" or "all".
        threads: of one inference.
        tf32: whether TensorFloat-32 was on.
    """

    provider: str
    level: str
    threads: int
    tf32: bool


@dataclass(frozen=True)
class Replaced:
    """The report that lay where this one lies now.

    Attributes:
        sha256: of that file.
        created_utc: when it was made; null if it does not say.
        passed: its verdict; null if it does not say.
        complete: whether everything was run; null if it does not say.
        same_bundle: whether it was of the same files.
    """

    sha256: str
    created_utc: str | None
    passed: bool | None
    complete: bool | None
    same_bundle: bool


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
        runtimes: ways to run the graph that were checked; the onboard runner takes no other.
        replaces: the report that lay here before; null if none did.
        diagnosis: where what failed first differs from the checkpoint, and likely causes.
        certificate: for how many recorded decisions rounding cannot matter; null where it is not known.
    """

    subject: Subject
    environment: dict[str, Any]
    options: dict[str, Any]
    checks: tuple[Check, ...]
    thresholds: Thresholds
    elapsed_s: float
    created_utc: str
    runtimes: tuple[VerifiedRuntime, ...] = ()
    replaces: Replaced | None = None
    diagnosis: tuple[Diagnosis, ...] = ()
    certificate: Certificate | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """Judgements, in the order of the checks."""
        return tuple(judge(check, self.thresholds) for check in self.checks)

    @property
    def passed(self) -> bool:
        """Whether at least one check ran, none failed, and only what the user switched off was not run."""
        statuses = [verdict.status for verdict in self.verdicts]
        return Status.PASSED in statuses and Status.FAILED not in statuses and not self.left_out

    @property
    def left_out(self) -> tuple[NotRun, ...]:
        """What was not run though the user did not switch it off."""
        return tuple(check for check in self.checks if isinstance(check, NotRun) and check.switch is None)

    @property
    def other_profiles(self) -> tuple[str, ...]:
        """Profiles that judge some checks in place of the report's own, as of what is narrow."""
        named = (check.profile for check in self.checks if isinstance(check, ParityCheck))
        return tuple(dict.fromkeys(profile for profile in named if profile))

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
            "subject": encode(self.subject),
            "runtimes": encode(self.runtimes),
            "environment": self.environment,
            "options": self.options,
            "created_utc": self.created_utc,
            "elapsed_s": self.elapsed_s,
            "replaces": encode(self.replaces),
            "diagnosis": encode(self.diagnosis),
            "certificate": encode(self.certificate),
            "checks": [_check_to_json(check) for check in self.checks],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "VerifyReport":
        """Return the report that `to_json` wrote; verdicts are made afresh.

        A check that the report's options imply and that is missing counts as not run; so the report has not passed.

        Raises:
            InputError: another schema version, a field is missing or of another type, or a check is there twice.
        """
        if data.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"report: schema version {data.get('schema_version')!r}, this deploy-kit reads {SCHEMA_VERSION}; "
                "run `deploy-kit verify` again"
            )
        stored = {name: data[name] for name in cls.__dataclass_fields__ if name in data and name != "checks"}
        checks = data.get("checks")
        try:
            if not isinstance(checks, list):
                raise DecodeError("report.checks is no list")
            found = tuple(_check_from_json(check, f"report.checks[{i}]") for i, check in enumerate(checks))
            names = [check.name for check in found]
            if twice := next((name for name in names if names.count(name) > 1), None):
                raise DecodeError(f"report.checks lists {twice} twice")
            read = decode(_Stored, stored, "report")
        except DecodeError as error:
            raise InputError(f"not a whole report ({error}): run `deploy-kit verify` again") from error
        fields = {name: getattr(read, name) for name in _Stored.__dataclass_fields__}
        return cls(checks=held_to_options(found, read.options, read.subject.files), **fields)

    def write(self, path: Path) -> None:
        """Write report.json; an interrupted write leaves the old file."""
        # A path may hold bytes that are no text: JSON has an escape for what Python makes of them.
        text = json.dumps(self.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        replace_file(path, lambda temporary: temporary.write_bytes(text.encode("utf-8", "backslashreplace")))


@dataclass(frozen=True)
class _Stored:
    """The fields of a report besides its checks and what follows from them."""

    subject: Subject
    environment: dict[str, Any]
    options: dict[str, Any]
    thresholds: Thresholds
    elapsed_s: float
    created_utc: str
    runtimes: tuple[VerifiedRuntime, ...]
    replaces: Replaced | None
    diagnosis: tuple[Diagnosis, ...]
    certificate: Certificate | None


def _check_to_json(check: Check) -> dict[str, Any]:
    kind = next(kind for kind, cls in KINDS.items() if isinstance(check, cls))
    return {"kind": kind, **encode(check)}


def _check_from_json(data: Any, where: str) -> Check:
    if not isinstance(data, dict) or not isinstance(data.get("kind"), str) or data["kind"] not in KINDS:
        raise DecodeError(f"{where} is no check of a known kind")
    fields = {name: value for name, value in data.items() if name != "kind"}
    check: Check = decode(KINDS[data["kind"]], fields, where)
    if isinstance(check, ParityCheck) and check.profile not in (None, *PROFILES):
        raise DecodeError(f"{where}.profile is {check.profile!r}, expected one of {', '.join(PROFILES)}")
    return check
