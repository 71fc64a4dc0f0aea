"""The contract's numbers as C++ constants, and the comment at the head of the header."""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from deploy_kit.bundle.contract import Contract
from deploy_kit.cpp.literals import A_LINE, double_literal, float_literal
from deploy_kit.cpp.program import Program
from deploy_kit.policy.run.state_term import StateTerm
from deploy_kit.task.interface import ACTION_NAMES

_LONGEST = 96


def comment(text: object) -> str:
    """Return a text of a contract as part of a comment's line: nothing in it can end the line or the comment."""
    plain = str(text).replace("²", "^2").replace("³", "^3").replace("°", " deg")
    return re.sub(r"[^A-Za-z0-9 .,:;()\[\]+=^<>_/-]|/(?=/)", " ", plain)[:_LONGEST].rstrip()


def introduction(contract: Contract, program: Program, generator: int, size: tuple[int, int], stored: str) -> str:
    """Return the comment at the head.

    Args:
        contract: of the bundle.
        program: what the network computes.
        generator: version of the text.
        size: numbers in the arrays, and their bytes.
        stored: how weights are stored, in words.
    """
    rows, columns = program.image_shape
    count = program.state_size
    acting = acting_term(contract)
    short = "" if acting is None else f" (or {count - (acting.stop - acting.start)} without last_action)"
    source = contract.provenance
    return (
        f"// Policy of deploy-kit as C++17, without a runtime. Generator {generator}. Do not edit: deploy-kit verify "
        "compares this file line by line.\n"
        f"// Checkpoint {comment(source.checkpoint)}, sha256 {comment(source.checkpoint_sha256)}\n"
        f"// {size[0]} numbers of weights, {size[1]} bytes; static memory, no allocation, no exceptions, "
        "no dependency.\n"
        f"// Weights are stored as {stored}.\n"
        "//\n"
        "// HOW TO FLY IT\n"
        "//  1. Include this file; build with -std=c++17 -O3 and the machine's vectors: -march=native, -mavx2 -mfma,\n"
        "//     or -mcpu=cortex-a76. Never with -ffast-math or -Ofast: that does not compile.\n"
        "//  2. static deploy_kit_policy::Policy policy;   not on a small stack: its buffers lie inside it.\n"
        "//  3. At start: if (policy.self_test() != deploy_kit_policy::Fault::kNone) do not fly.\n"
        f"//  4. Every {_seconds(contract.timing.policy_period_s.value)} s: "
        "Fault fault = policy.step(state, count, depth, {now, state_time, depth_time}, output).\n"
        f"//  5. state: {count} numbers{short} in SI units, in the order listed below.\n"
        f"//  6. depth: {rows} x {columns} floats, row by row, top row first: metres along the optical axis, +inf for "
        "no return.\n"
        "//  7. output.command is what to send, in the units listed below; output.gate_event announces a passage.\n"
        "//  8. A fault means that nothing was computed: send something safe, and tell it with policy.hold(sent).\n"
        "//  9. policy.reset() at the start of a flight. One object a drone, one thread.\n"
        "// 10. The contract (contract.json) explains frames and signs; check them before the first flight.\n"
    )


def acting_term(contract: Contract) -> StateTerm | None:
    """Return the state's term that holds the command now acting, None without one."""
    return next((term for term in contract.observation.terms if term.quantity == "last_action"), None)


def _seconds(value: float | tuple[float, ...]) -> str:
    assert not isinstance(value, tuple)
    return f"{value:g}"


def constants_text(contract: Contract, program: Program) -> str:
    """Return the constants."""
    observation, action, depth, timing = (
        contract.observation,
        contract.action,
        contract.observation.depth,
        contract.timing,
    )
    rows, columns = program.image_shape
    acting = acting_term(contract)
    start = 0 if acting is None else acting.start
    short = program.state_size - (0 if acting is None else acting.stop - acting.start)
    terms = observation.terms
    clips = [bound for term in terms for bound in [term.clip or (-math.inf, math.inf)] * (term.stop - term.start)]
    detector = None if contract.gate is None else contract.gate.detector
    assert depth.clip_m is not None
    assert depth.divisor_m is not None
    lines = [
        "// ---- the contract's constants ----",
        "constexpr double kInfinity = std::numeric_limits<double>::infinity();  // no limit",
        "// State, in this order:",
        *(_term_comment(term) for term in terms),
        f"constexpr int kStateSize = {program.state_size};",
        f"constexpr bool kHasLastAction = {_bool(acting is not None)};",
        f"constexpr int kLastActionStart = {start};  // the command now acting; filled in where states lack it",
        f"constexpr int kShortStateSize = {short};",
        _doubles("kStateLow", _per_number(terms, "low", -math.inf), "in flight; a state beyond it is refused"),
        _doubles("kStateHigh", _per_number(terms, "high", math.inf)),
        f"constexpr bool kStateIsClipped = {_bool(any(term.clip for term in terms))};",
        _doubles("kStateClipLow", [low for low, _ in clips], "as in training, before the scale"),
        _doubles("kStateClipHigh", [high for _, high in clips]),
        f"constexpr bool kStateIsScaled = {_bool(any(term.scale for term in terms))};",
        _doubles("kStateScale", _per_number(terms, "scale", 1.0)),
        f"// Depth: {comment(depth.measure)}; {comment(depth.order)}",
        f"constexpr int kRows = {rows};",
        f"constexpr int kColumns = {columns};",
        "constexpr int kImageSize = kRows * kColumns;",
        f"constexpr float kDepthClip = {float_literal(np.float32(depth.clip_m))};  // {depth.clip_m:g} m",
        f"constexpr float kDepthDivisor = {float_literal(np.float32(depth.divisor_m))};  // {depth.divisor_m:g} m",
        f"constexpr int kFeatureSize = {program.feature_size};",
        f"// Command: {comment(action.formula)}; frame {comment(action.frame)}",
        *(
            f"//   [{i}] {name}, {comment(unit)}"
            for i, (name, unit) in enumerate(zip(ACTION_NAMES, action.units, strict=True))
        ),
        f"constexpr int kActions = {program.num_actions};",
        _doubles("kActionScale", action.scale),
        _doubles("kActionOffset", action.offset),
        f"constexpr bool kActionIsClipped = {_bool(action.clip is not None)};",
        f"constexpr double kActionClip = {double_literal(math.inf if action.clip is None else action.clip)};",
        "// Gate: the logit says that this step passes the gate.",
        f"constexpr bool kHasGate = {_bool(program.gate)};",
        f"constexpr bool kHasDetector = {_bool(detector is not None)};",
        f"constexpr double kGateThreshold = {double_literal(0.0 if detector is None else detector.threshold_logit)};",
        f"constexpr double kGateRelease = {double_literal(0.0 if detector is None else detector.release_logit)};",
        f"constexpr double kSlopeGain = {double_literal(0.0 if detector is None else detector.slope_gain)};",
        f"constexpr double kSlopeRise = {double_literal(0.0 if detector is None else detector.slope_rise)};",
        f"constexpr int kSlopeSteps = {0 if detector is None else detector.slope_steps};",
        f"constexpr int kRefractorySteps = {0 if detector is None else detector.refractory_steps};",
        "// Timing.",
        f"constexpr double kPolicyPeriod = {double_literal(_number(timing.policy_period_s.value))};  // s",
        f"constexpr double kDepthPeriod = {double_literal(_number(timing.depth_period_s.value))};  // s",
        f"constexpr int kLatencySteps = {int(_number(timing.action_latency_steps.value))};  "
        "// from computing a command to its acting",
    ]
    return "\n".join(lines) + "\n"


def _term_comment(term: StateTerm) -> str:
    what = f"{comment(term.name)}, {comment(term.unit)}, frame {comment(term.frame)}"
    said = "unknown" if term.description is None else comment(term.description)
    return f"//   [{term.start}, {term.stop}) {what}:\n//       {said}"


def _per_number(terms: Iterable[StateTerm], key: str, unknown: float) -> list[float]:
    values: list[float] = []
    for term in terms:
        known = getattr(term, key)
        values += [unknown] * (term.stop - term.start) if known is None else known
    return values


def _doubles(name: str, values: Sequence[float], said: str = "") -> str:
    note = f"  // {said}" if said else ""
    literals = [double_literal(float(value)) for value in values]
    lines = [", ".join(literals[start : start + A_LINE]) for start in range(0, len(literals), A_LINE)]
    inside = ",\n    ".join(lines)
    return f"constexpr double {name}[{len(values)}] = {{{note}\n    {inside}}};"


def _bool(value: object) -> str:
    return "true" if value else "false"


def _number(value: float | tuple[float, ...]) -> float:
    assert not isinstance(value, tuple)
    return float(value)
