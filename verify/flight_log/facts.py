"""Facts of a log that need no network: its file, its bundle, times, faults, memory, motion."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.reader import HEADERS, ONNX_NAME, Bundle
from deploy_kit.bundle.variants import VARIANT_ENGINES
from deploy_kit.files import file_sha256
from deploy_kit.flightlog.imported import imported
from deploy_kit.flightlog.kinematics import MIN_STEPS, Motion, judge_motion
from deploy_kit.flightlog.reader import FlightLog
from deploy_kit.task.interface import ActionTransform
from deploy_kit.verify.flight_log.causes import affine_cause
from deploy_kit.verify.flight_log.history import Expected
from deploy_kit.verify.report import Check, FactCheck, NotRun

NAME = "flight-log"

BROKEN_FAULTS = ("output_not_finite", "runtime", "contract_invalid")
"""Faults of the artifact itself; the others are those of its inputs, its pace or its log."""

PACE_BAND = 0.1
"""Relative deviation of the median step from the policy's period."""

COMMAND_TOLERANCE = 1e-6
"""Relative to a command's scale; both sides compute in float64."""

FROZEN_S = 0.5
"""A camera whose image does not change for so long has stopped."""

_FILES = "files that flew against this bundle's"

Float64 = npt.NDArray[np.float64]


def file_check(log: FlightLog) -> FactCheck:
    """Return whether the log is whole."""
    problems, notes = [], []
    if log.damaged:
        problems.append(f"{log.cut}: the file is damaged; copy it again")
    elif log.cut:
        notes.append(f"{log.cut}: the recorder was cut off")
    if log.ended is None:
        notes.append("the recorder was not closed")
    elif log.ended not in ("closed", "imported"):
        notes.append(f"the log ends because {log.ended}")
    origin = imported(log)
    if log.missing and origin.source is not None:
        notes.append(f"{log.missing} steps between were left out, since not all that they need is in {origin.source}")
    elif log.missing:
        problems.append(f"{log.missing} records are missing: the disk was too slow for the recorder")
    if part := log.header.get("part", 0):
        notes.append(f"part {part + 1} of the flight; the parts before it were given up")
    return FactCheck(
        f"{NAME}/file",
        f"records of {log.path.name} (sha256 {file_sha256(log.path)[:12]}…) whole, in order, none missing",
        len(log.records),
        tuple(problems),
        _note(notes),
    )


def bundle_check(log: FlightLog, bundle: Bundle) -> FactCheck:
    """Return whether this bundle flew, on which computer."""
    header, problems = log.header, []
    for name in sorted({*bundle.files, *header["files"]}):
        if header["files"].get(name) != bundle.files.get(name):
            flew = str(header["files"].get(name))[:12]
            problems.append(f"{name} with sha256 {flew}… flew, this bundle's is {str(bundle.files.get(name))[:12]}…")
    origin = imported(log)
    if origin.source is not None:
        note = f"imported from {origin.source}, which does not say what flew: whoever imported it named the bundle"
        return FactCheck(f"{NAME}/bundle", _FILES, len(header["files"]), tuple(problems), note)
    providers = header.get("providers") or ["unknown"]
    note = (
        f"{_engine(header)} on {header.get('machine')}, {providers[0]}, golden samples at "
        f"{header.get('self_check', float('nan')):.2f} of the tolerance"
    )
    return FactCheck(f"{NAME}/bundle", _FILES, len(header["files"]), tuple(problems), note)


def _engine(header: dict[str, Any]) -> str:
    """Return what ran the network, in words."""
    engine = header.get("engine")
    variant = f" ({engine})" if engine in VARIANT_ENGINES else ""
    return f"the C++ header ({engine})" if engine in HEADERS else f"onnxruntime {header.get('onnxruntime')}{variant}"


def not_logged(name: str, what: str) -> NotRun:
    """Return that an imported log does not hold what a check needs; whoever mapped it knew."""
    return NotRun(f"{NAME}/{name}", f"the imported log does not hold {what}", "log import")


def graph_flew(log: FlightLog, bundle: Bundle) -> bool:
    """Return whether the graph that flew is this bundle's."""
    return bool(log.header["files"].get(ONNX_NAME) == bundle.files[ONNX_NAME])


def fault_check(log: FlightLog) -> FactCheck:
    """Return which steps were refused, and why; faults of the artifact itself are problems."""
    names = [step.fault.split(":")[0] for step in log.steps if step.fault]
    problems = [
        f"record {step.sequence}: {step.fault}"
        for step in log.steps
        if step.fault and step.fault.split(":")[0] in BROKEN_FAULTS
    ]
    counts = ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())
    return FactCheck(
        f"{NAME}/faults",
        "refused steps, none for the artifact's own fault",
        len(log.steps),
        tuple(problems[:5]),
        f"{len(names)} steps refused: {counts}" if names else "no step was refused",
    )


def timing_check(log: FlightLog, contract: Contract, repeated: int, longest_repeat: int) -> FactCheck:
    """Return whether the steps were quick enough, came at the policy's rate, and the camera went on.

    Args:
        log: the log.
        contract: gives the periods.
        repeated: how many images were those of the step before.
        longest_repeat: the most steps in a row with one image.
    """
    period = number(contract.timing.policy_period_s.value)
    durations = np.array([step.duration_ns for step in log.flown]) / 1e9
    problems, notes = [], []
    if "duration" in imported(log).lacks:
        notes.append("the imported log does not hold how long a step took")
    elif durations.size:
        p50, p99 = np.percentile(durations, [50, 99])
        late = int((durations > period).sum())
        notes.append(
            f"a step took {1e3 * p50:.2f} ms (p50), {1e3 * p99:.2f} ms (p99); {late} took longer than a period"
        )
        if p99 >= period:
            problems.append(f"{late} of {durations.size} steps took longer than the period of {1e3 * period:g} ms")
    now = np.array([step.times[0] for step in log.flown])
    intervals = np.diff(now)
    intervals = intervals[np.isfinite(intervals) & (intervals > 0)]
    if intervals.size:
        median = float(np.median(intervals))
        notes.append(f"one step each {1e3 * median:.1f} ms (median), at most {intervals.max():.3f} s apart")
        if abs(median / period - 1) > PACE_BAND:
            problems.append(f"the policy flew at {1 / median:.1f} Hz; it was trained for {1 / period:.1f} Hz")
        for name, column in (("state", 1), ("depth", 2)):
            ages = now - np.array([step.times[column] for step in log.flown])
            ages = ages[np.isfinite(ages)]
            if ages.size:
                notes.append(f"{name} {1e3 * np.median(ages):.0f} ms old (median), at most {1e3 * ages.max():.0f} ms")
    else:
        notes.append("no times were given, so that neither pace nor ages are known")
    frames = number(contract.timing.depth_period_s.value)
    notes.append(f"{repeated} images were those of the step before")
    if longest_repeat * period > max(FROZEN_S, 3 * frames):
        problems.append(
            f"the image did not change for {longest_repeat} steps ({longest_repeat * period:.1f} s): had the camera "
            "stopped, or its driver sent the last image again?"
        )
    return FactCheck(f"{NAME}/timing", "duration, pace and age of steps", len(log.flown), tuple(problems), _note(notes))


def memory_check(expected: Sequence[Expected], names: Sequence[str]) -> FactCheck:
    """Return whether the acting command of each step is the one that the steps before imply."""
    known = [(item.step, item.acting) for item in expected if item.acting is not None]
    problems = []
    for step, acting in known:
        if not np.allclose(step.acting, acting, rtol=1e-9, atol=1e-9):
            worst = int(np.argmax(np.abs(step.acting - acting)))
            problems.append(
                f"record {step.sequence}: {names[worst]} acting is {step.acting[worst]:.4g}, the commands before imply "
                f"{acting[worst]:.4g}"
            )
    return FactCheck(f"{NAME}/last-action", "acting commands against those given before", len(known), _first(problems))


def command_check(log: FlightLog, contract: Contract, transform: ActionTransform) -> FactCheck:
    """Return whether the commands given are those of the graph's outputs, by the vehicle's own numbers."""
    flown = log.flown
    first = np.array([step.first for step in flown], np.float64).reshape(len(flown), -1)
    command = np.array([step.command for step in flown]).reshape(len(flown), -1)
    expected = first if contract.action.inside_graph else transform.apply(first)
    problems = []
    for index, name in enumerate(contract.action.names):
        error = np.abs(command[:, index] - expected[:, index])
        limit = COMMAND_TOLERANCE * (transform.scale[index] + np.abs(expected[:, index]))
        if (wrong := ~(error <= limit)).any():
            row = int(np.argmax(wrong))
            cause = affine_cause(expected[:, index], command[:, index])
            problems.append(
                f"{name} is {command[row, index]:.6g} at record {flown[row].sequence}, the graph's output means "
                f"{expected[row, index]:.6g}" + (f": {cause}" if cause else "")
            )
    return FactCheck(
        f"{NAME}/commands", "commands against the graph's outputs and the vehicle", len(flown), tuple(problems)
    )


def gate_check(
    expected: Sequence[Expected], time: Callable[[int], str], lacks: frozenset[str] = frozenset()
) -> FactCheck:
    """Return whether threshold and detector decided as the checkpoint's do; the note tells the announcements.

    Args:
        expected: what each step should have had.
        time: puts a record's number into words.
        lacks: decisions that the log does not hold.
    """
    judged = [item for item in expected if item.passed is not None]
    if not judged:
        note = "the checkpoint has no calibrated gate head, so that there is nothing to decide"
        return FactCheck(f"{NAME}/gate", "decisions against the checkpoint's detector", 0, (), note)
    problems = []
    for item in judged:
        for what, found, wanted in (
            ("gate_passed", item.step.passed, item.passed),
            ("gate_event", item.step.event, item.event),
        ):
            if wanted is not None and what not in lacks and found is not wanted:
                problems.append(
                    f"record {item.step.sequence}: {what} was {found}, the checkpoint's detector says {wanted} for "
                    f"{item.step.gate:.4g}"
                )
    events = [time(item.step.sequence) for item in judged if item.step.event]
    shown = ", ".join(events[:20]) + (", …" if len(events) > 20 else "")
    note = f"{len(events)} passages announced" + (f": {shown}" if events else "")
    return FactCheck(f"{NAME}/gate", "decisions against the checkpoint's detector", len(judged), _first(problems), note)


def motion_check(state: Float64, log_steps: Sequence[int], contract: Contract, seconds: Float64) -> Check:
    """Return whether velocity, attitude and target move as one drone does.

    Args:
        state: (n, state) of the flown steps, SI units, the acting command among them.
        log_steps: (n,) their record numbers.
        contract: gives the terms.
        seconds: (n,) time of each.
    """
    name = f"{NAME}/motion"
    places = {term.quantity: slice(term.start, term.stop) for term in contract.observation.terms}
    needed = ("base_lin_vel", "base_orientation", "target_position", "last_action")
    if missing := [quantity for quantity in needed if quantity not in places]:
        note = f"the policy's state has no {', '.join(missing)}, so that its motion is not known"
        return FactCheck(name, "velocity, attitude and target", 0, (), note)
    velocity, up, target, acting = (state[:, places[quantity]] for quantity in needed)
    numbers = np.array(log_steps)
    apart = np.diff(seconds)
    pairs = np.flatnonzero((np.diff(numbers) == 1) & (apart > 0))
    finding = None
    if pairs.size >= MIN_STEPS:
        both = [np.stack((values[pairs], values[pairs + 1]), axis=1) for values in (velocity, up, target)]
        finding = judge_motion(Motion(apart[pairs], both[0], both[1], both[2], acting[pairs, 1:4]))
    if finding is None:
        return NotRun(name, f"fewer than {MIN_STEPS} steps in a row towards one gate do not tell")
    return FactCheck(
        name,
        "velocity, attitude and target against the motion of one drone",
        finding.steps,
        finding.problems,
        f"the attitude follows the body rates with a slope of {finding.up_slope:.2f}; the velocity is "
        f"{finding.scale:.2f} times the motion towards the gate",
    )


def number(value: object) -> float:
    """Return a contract's single number."""
    assert isinstance(value, (int, float))
    return float(value)


def _first(problems: list[str], count: int = 3) -> tuple[str, ...]:
    rest = len(problems) - count
    return tuple(problems[:count] + ([f"and {rest} more like these"] if rest > 0 else []))


def _note(notes: list[str]) -> str | None:
    return "; ".join(notes) or None
