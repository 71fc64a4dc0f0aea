"""Says what a flight log holds, as plain JSON values for ``deploy-kit inspect``."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.flightlog.records import LoggedHold, LoggedReset


def describe_flight_log(path: Path) -> dict[str, Any]:
    """Return what flew, how many steps there are, and how the log ends.

    Raises:
        FlightLogError: it cannot be read.
    """
    with open_flight_log(path) as log:
        durations = [step.duration_ns / 1e6 for step in log.flown]
        faults = Counter(step.fault.split(":")[0] for step in log.steps if step.fault)
        header = {key: value for key, value in log.header.items() if key != "contract"}
        return {
            "path": str(path),
            "steps": len(log.flown),
            "refused": dict(faults),
            "holds": sum(isinstance(record, LoggedHold) for record in log.records),
            "resets": sum(isinstance(record, LoggedReset) for record in log.records),
            "passages_announced": sum(step.event is True for step in log.flown),
            "step_ms": None if not durations else {"p50": float(np.median(durations)), "max": max(durations)},
            "missing_records": log.missing,
            "ended": log.ended or "the recorder was not closed",
            "cut": log.cut,
            "damaged": log.damaged,
            "header": header,
        }
