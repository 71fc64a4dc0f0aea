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


MODELS = {
    "onnxruntime": "policy.onnx",
    "onnxruntime-fp16": "policy.fp16.onnx",
    "onnxruntime-int8": "policy.int8.onnx",
    "cpp": "policy.hpp",
    "cpp-fp16": "policy.fp16.hpp",
    "cpp-int8": "policy.int8.hpp",
}
"""What flies, by the engine that runs it."""

_CHECKS = {
    "cpp": {"cpp/text", "cpp/run", "replay/golden/cpp"},
    # What rounding does to flights must have been seen, too.
    **{
        name: {*(f"{name}/text", f"{name}/run"), f"replay/golden/{name}", f"live/driving@{name}"}
        for name in ("cpp-fp16", "cpp-int8")
    },
    **{
        f"onnxruntime-{kind}": {f"{kind}/graph", f"replay/golden/{kind}", f"live/driving@{kind}"}
        for kind in ("fp16", "int8")
    },
}
"""What is asked of a report before a C++ header or a variant flies, by the engine."""


@dataclass(frozen=True)
class Verification:
    """What is known of a bundle's verification.

    Attributes:
        state: "verified", "failed", "of another bundle", "unreadable" or "absent".
        runtimes: ways to run the graph that may fly.
        complete: whether everything was run.
        engines: those whose C++ header or variant was compared and run, and flown too if it is narrow.
    """

    state: str
    runtimes: tuple[Runtime, ...] = EXPORTED
    complete: bool = False
    engines: frozenset[str] = frozenset()

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

    def require_engine(self, engine: str) -> None:
        """Check that a C++ header or a variant was verified, which export and manifest alone do not vouch for.

        Args:
            engine: what runs it.

        Raises:
            OnboardFault: no report of these very files says so.
        """
        if engine not in self.engines:
            flown = "" if engine == "cpp" else " and flown"
            where = " where a C++ compiler is" if engine.startswith("cpp") else ""
            raise OnboardFault(
                Fault.NOT_VERIFIED,
                f"no report says that {MODELS[engine]} was verified{flown} (the report beside the bundle is "
                f"{self.state}): run deploy-kit verify{where}, and copy its report.json too",
            )

    def require_variant(self, engine: str, runtime: Runtime) -> None:
        """Check that a variant was verified, and that it flies as it was.

        Args:
            engine: what runs it.
            runtime: how.

        Raises:
            OnboardFault: no report of these very files says so.
        """
        self.require(runtime)
        self.require_engine(engine)
        if runtime != self.runtimes[0]:
            raise OnboardFault(
                Fault.NOT_VERIFIED,
                f"{MODELS[engine]} was verified on {self.runtimes[0]} alone, not on {runtime}: run deploy-kit verify "
                "with that provider, level and number of threads first, and copy its report.json too",
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
    verdicts = [(item["name"], item["status"]) for item in data.get("verdicts", ())]
    # Whoever changes the one forgets the other.
    if data["passed"] is not True or any(status == "failed" for _, status in verdicts):
        return Verification("failed")
    runtimes = tuple(
        Runtime(str(item["provider"]), str(item["level"]), int(item["threads"]), bool(item["tf32"]))
        for item in data["runtimes"]
    )
    passed = {name for name, status in verdicts if status == "passed"}
    engines = frozenset(engine for engine, checks in _CHECKS.items() if passed >= checks)
    return Verification("verified", runtimes, data["complete"] is True, engines)
