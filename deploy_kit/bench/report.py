"""What a benchmark measured, as plain data."""

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy_kit.timing import Latency

REPORT_VERSION = 1
"""Raised whenever a field changes its meaning, appears or goes."""


@dataclass(frozen=True)
class Start:
    """A candidate in a fresh process.

    Attributes:
        total_s: from the start of the process to the first output: Python, libraries, artifact, one step.
        open_s: of that, opening engine and artifact, libraries included.
        first_us: of that, the first step.
        peak_mib: most memory that the process held; None where the system does not tell.
    """

    total_s: float
    open_s: float
    first_us: float
    peak_mib: float | None


@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        artifact: what ran: "onnx", "torchscript", "pytorch", "masterracing", or the name of a file.
        engine: what ran it.
        runtime: provider, optimisation level and threads; None where the engine has no choice.
        back_to_back: durations of steps one after the other.
        paced: durations of steps at the rate.
        start: in a fresh process.
        bytes: size of the artifact; None where it is none.
    """

    artifact: str
    engine: str
    runtime: str | None
    back_to_back: Latency | None
    paced: Latency | None
    start: Start | None
    bytes: int | None

    @property
    def name(self) -> str:
        """Name for a table."""
        return ", ".join(filter(None, (self.artifact, self.engine, self.runtime)))


@dataclass(frozen=True)
class BenchReport:
    """What was measured in one run.

    Attributes:
        bundle: the folder.
        manifest_sha256: of its manifest.
        created_utc: when.
        environment: machine and versions.
        rate_hz: steps a second of the paced ones; None if there were none.
        turn: steps of a candidate before the next one's turn, back to back.
        rows: one each candidate; ratios are to the first one.
        left_out: why a candidate did not run, by its name.
    """

    bundle: str
    manifest_sha256: str
    created_utc: str
    environment: dict[str, Any]
    rate_hz: float | None
    turn: int
    rows: tuple[Row, ...]
    left_out: dict[str, str]

    def ratio(self, row: Row, kind: str) -> float | None:
        """Return a row's median as a multiple of the first row's, None where either was not measured.

        Args:
            row: one of `rows`.
            kind: "back_to_back" or "paced".
        """
        own, first = getattr(row, kind), getattr(self.rows[0], kind)
        return None if own is None or first is None else float(own.p50_us / first.p50_us)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON, with the ratios."""
        data = {"bench_version": REPORT_VERSION, **asdict(self)}
        for row, entry in zip(self.rows, data["rows"], strict=True):
            entry["name"] = row.name
            entry["ratio"] = {kind: self.ratio(row, kind) for kind in ("back_to_back", "paced")}
        return data


def machine() -> dict[str, Any]:
    """Return what of the machine has a say in durations."""
    cpu, cores = platform.processor() or platform.machine(), os.cpu_count()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model", "Hardware"):
                cpu = value.strip()
                break
    except OSError:
        pass  # not Linux
    return {"cpu": cpu, "cores": cores, "platform": platform.platform(), "python": platform.python_version()}
