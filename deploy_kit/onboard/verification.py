"""What the report beside a bundle says, and whether it is of these very files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .faults import Fault, OnboardFault
from .strict_json import strict_json

REPORT_NAME = "report.json"
REPORT_VERSION = 3

_MAX_BYTES = 64 << 20


class Runtime(NamedTuple):
    """One way to run the graph.

    Attributes:
        provider: onnxruntime's execution provider.
        level: graph optimisation: "disabled", "basic", "extended" or "all".
        threads: threads of one inference.
        tf32: whether TensorFloat-32 is on.
    """

    provider: str
    level: str
    threads: int
    tf32: bool

    def __str__(self) -> str:
        return f"{self.provider}, level {self.level}, {self.threads} threads{', TF32' if self.tf32 else ''}"


EXPORTED = (Runtime("CPUExecutionProvider", "all", 1, tf32=False),)
"""What export verifies before it publishes a bundle."""


_HEADER_CHECKS = {
    "cpp": {"cpp/text", "cpp/run", "replay/golden/cpp"},
    **{
        # What rounding the weights does to flights must have been seen, too.
        name: {*(f"{name}/text", f"{name}/run"), f"replay/golden/{name}", f"live/driving@{name}"}
        for name in ("cpp-fp16", "cpp-int8")
    },
}
"""What is asked of a report before a C++ header is built, by the engine."""


@dataclass(frozen=True)
class Verification:
    """What is known of a bundle's verification.

    Attributes:
        state: "verified", "failed", "of another bundle", "unreadable" or "absent".
        runtimes: ways to run the graph that may fly.
        complete: whether everything was run.
        headers: C++ headers that were compared, built and run, those with narrow weights flown too; by their engines.
    """

    state: str
    runtimes: tuple[Runtime, ...] = EXPORTED
    complete: bool = False
    headers: frozenset[str] = frozenset()

    def require(self, runtime: Runtime) -> None:
        """Check that a way to run the graph was verified.

        Raises:
            OnboardFault: the bundle's verification failed, or was made with other runtimes.
        """
        if self.state == "failed":
            raise OnboardFault(
                Fault.NOT_VERIFIED,
                f"{REPORT_NAME} says that verifying these very files failed: mend the bundle, or verify it again",
            )
        if runtime not in self.runtimes:
            known = "; ".join(map(str, self.runtimes))
            raise OnboardFault(
                Fault.NOT_VERIFIED,
                f"{runtime} was not verified, only {known} (the report beside the bundle is {self.state}): run "
                "deploy-kit verify with that provider, level and number of threads, and copy its report.json too",
            )

    def require_header(self, engine: str) -> None:
        """Check that a C++ header was verified: it is code, which export and manifest alone do not vouch for.

        Args:
            engine: "cpp", "cpp-fp16" or "cpp-int8".

        Raises:
            OnboardFault: no report of these very files says so.
        """
        if engine not in self.headers:
            name, flown = ("policy.hpp", "") if engine == "cpp" else (f"policy.{engine[4:]}.hpp", " and flown")
            raise OnboardFault(
                Fault.NOT_VERIFIED,
                f"no report says that {name} was verified{flown} (the report beside the bundle is {self.state}): run "
                "deploy-kit verify where a C++ compiler is, and copy its report.json too",
            )


def read_verification(folder: Path, manifest_sha256: str) -> Verification:
    """Return what the report beside a bundle says.

    Args:
        folder: the bundle's.
        manifest_sha256: of the manifest that was read.
    """
    path = folder / REPORT_NAME
    try:
        if not path.is_file():
            return Verification("absent")
        if path.stat().st_size > _MAX_BYTES:
            return Verification("unreadable")
        return _verification(strict_json(path.read_text(encoding="utf-8")), manifest_sha256)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return Verification("unreadable")


def _verification(data: dict[str, Any], manifest_sha256: str) -> Verification:
    if data["schema_version"] != REPORT_VERSION:
        return Verification("unreadable")
    if data["subject"]["manifest_sha256"] != manifest_sha256:
        return Verification("of another bundle")
    if data["passed"] is not True:
        return Verification("failed")
    runtimes = tuple(
        Runtime(str(item["provider"]), str(item["level"]), int(item["threads"]), bool(item["tf32"]))
        for item in data["runtimes"]
    )
    passed = {item["name"] for item in data.get("verdicts", ()) if item["status"] == "passed"}
    headers = frozenset(engine for engine, checks in _HEADER_CHECKS.items() if passed >= checks)
    return Verification("verified", runtimes, data["complete"] is True, headers)
