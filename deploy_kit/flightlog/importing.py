"""Make a flight log of another stack's log, by a mapping and the bundle that flew."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.reader import open_bundle
from deploy_kit.errors import FlightLogError
from deploy_kit.files import file_sha256
from deploy_kit.flightlog.images import ImageStore
from deploy_kit.flightlog.mapping import Mapping
from deploy_kit.flightlog.records import LoggedInputs, LoggedStep
from deploy_kit.flightlog.signals import Gathered, gather
from deploy_kit.flightlog.sources.opening import open_source
from deploy_kit.flightlog.writer import Payload, record_payload, write_flight_log
from deploy_kit.onboard.contract import OnboardContract, parse_contract
from deploy_kit.onboard.faults import OnboardFault
from deploy_kit.onboard.frames import rotation_matrix
from deploy_kit.onboard.options import OnboardOptions
from deploy_kit.onboard.resize import DepthResize, Intrinsics

OPTIONAL = ("graph_output", "gate_output", "gate_passed", "gate_event", "duration")
"""Outputs that a log of another stack may lack; verify then leaves out what needs them."""

_GAP = 1.5
"""Policy periods between two steps above which one is missing, and what acts is not known for a while."""

Float64 = npt.NDArray[np.float64]
Quantities = dict[str, Float64]


def _up(q: Quantities) -> Float64:
    up: Float64 = rotation_matrix(q["attitude"])[2]
    return up


_TERMS: dict[str, tuple[tuple[str, ...], Callable[[Quantities], Float64]]] = {
    "base_lin_vel": (("velocity", "attitude"), lambda q: rotation_matrix(q["attitude"]).T @ q["velocity"]),
    "base_orientation": (("attitude",), _up),
    "projected_gravity": (("attitude",), lambda q: -_up(q)),
    "target_position": (
        ("gate", "position", "attitude"),
        lambda q: rotation_matrix(q["attitude"]).T @ (q["gate"] - q["position"]),
    ),
    "next_target_offset": (
        ("next_gate", "gate", "attitude"),
        lambda q: rotation_matrix(q["attitude"]).T @ (q["next_gate"] - q["gate"]),
    ),
}
"""How each term is made of quantities in the world, with their names."""

_RARELY_SENT = ("gate", "next_gate")
"""What stays as it is for seconds: its age is none of the state's."""


@dataclass
class ImportResult:
    """What was imported.

    Attributes:
        steps: that the log holds.
        left_out: steps without all inputs before them, by reason.
        lacks: outputs that the other log does not have.
    """

    steps: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()


def import_log(source: Path, target: Path, bundle: Path, mapping: Mapping) -> ImportResult:
    """Write a flight log of another stack's log.

    At each step the inputs are the last ones measured before it or with it; outputs are those nearest to it.

    Args:
        source: MCAP, ULog or rosbag2.
        target: flight log to write.
        bundle: that flew, by the word of whoever imports.
        mapping: says what is what.

    Raises:
        FlightLogError: the log cannot be read, or lacks what the policy needs.
        BundleError: the bundle cannot be read.
        InputError: the flight log cannot be written.
    """
    opened = open_bundle(bundle)
    try:
        contract = parse_contract(opened.read("contract.json").decode("utf-8"))
    except OnboardFault as fault:
        raise FlightLogError(f"{bundle}: the runner would refuse its contract ({fault})") from fault
    made = sources_of_terms(mapping, contract)
    n = len(contract.scale)
    sizes = {"command": (n,), "graph_output": (n,), "state": _state_sizes(contract)}
    with ImageStore() as images:
        found = gather(source, open_source(source), mapping, contract.image_shape, sizes, images)
        result = ImportResult(lacks=tuple(name for name in OPTIONAL if name not in found.series))
        steps = _Steps(mapping, contract, found, made, result)
        header = {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": opened.files,
            "options": asdict(steps.options),
            "num_actions": n,
            "state_size": len(contract.state_low),
            "image_shape": contract.image_shape,
            "contract": contract.text,
            "imported": {
                "source": source.name,
                "sha256": file_sha256(source) if source.is_file() else None,
                "mapping": mapping.text,
                "lacks": [*result.lacks, "network_input"],
            },
        }
        write_flight_log(target, header, steps.payloads(source), ["imported"])
    return result


def sources_of_terms(mapping: Mapping, contract: OnboardContract) -> list[str]:
    """Return by which signal each term of the state comes: its own name, "quantities", "commands" or "state".

    Raises:
        FlightLogError: the mapping does not name what a term needs.
    """
    terms = contract.text["observation"]["terms"]
    if "state" in mapping.signals:
        return ["state"] * len(terms)
    made, problems = [], []
    for term in terms:
        quantity = term["quantity"]
        if quantity in mapping.signals:
            made.append(quantity)
        elif quantity == "last_action":
            made.append("commands")
        elif quantity in _TERMS:
            made.append("quantities")
            needed = _TERMS[quantity][0]
            if missing := [name for name in needed if name not in mapping.signals]:
                problems.append(f"{quantity} needs {' and '.join(needed)}, and it names no {' or '.join(missing)}")
        else:
            problems.append(f"{term['name']} is not mapped, and cannot be made of other quantities")
    if problems:
        raise FlightLogError(f"the mapping lacks what the policy observes: {'; '.join(problems)}")
    return made


def _state_sizes(contract: OnboardContract) -> tuple[int, ...]:
    size, acting = len(contract.state_low), contract.last_action
    return (size,) if acting is None else (size, size - (acting[1] - acting[0]))


class _Steps:
    """Yields the records of a log's steps.

    Args:
        mapping: says what is what.
        contract: of the bundle that flew.
        found: the log's numbers.
        made: how each term is made.
        result: counts what was done.
    """

    def __init__(
        self, mapping: Mapping, contract: OnboardContract, found: Gathered, made: list[str], result: ImportResult
    ) -> None:
        self._mapping, self._contract, self._found, self._made = mapping, contract, found, made
        self._result = result
        self._resize = _resize(mapping, contract)
        self._inputs = self._needed()
        no_return = mapping.depth.no_return
        self.options = OnboardOptions(
            depth_in_millimetres=found.images[0].dtype.kind == "u",
            zero_is_no_return=no_return == "zero",
            nan_is_no_return=no_return == "nan",
        )

    def _needed(self) -> tuple[str, ...]:
        """Return the signals of which the state is made."""
        if "state" in self._made:
            return ("state",)
        terms = zip(self._contract.text["observation"]["terms"], self._made, strict=True)
        names: list[str] = []
        for term, made in terms:
            names += _TERMS[term["quantity"]][0] if made == "quantities" else [made] if made != "commands" else []
        return tuple(dict.fromkeys(names))

    def payloads(self, source: Path) -> Iterator[Payload]:
        """Yield the steps in order.

        Args:
            source: the log, for messages.

        Raises:
            FlightLogError: there is no step with all inputs.
        """
        contract, waits = self._contract, self._contract.latency_steps + 1
        queue: deque[Float64 | None] = deque([contract.offset if self._mapping.at_reset else None] * waits)
        period_ns, before = 1e9 * contract.policy_period_s, None
        for sequence, step_ns in enumerate(self._found.steps_ns.tolist(), 1):
            if before is not None and step_ns - before > _GAP * period_ns:
                queue = deque([None] * waits)
            before = step_ns
            command = self._command(source, step_ns)
            acting = queue.popleft()
            queue.append(command)
            reason = self._lacking(step_ns)
            if reason is None and acting is None and contract.last_action is not None and self._short:
                reason = "the commands before"
            if reason is not None:
                self._result.left_out[reason] = self._result.left_out.get(reason, 0) + 1
                continue
            self._result.steps += 1
            yield self._record(source, sequence, step_ns, command, acting)
        if not self._result.steps:
            counts = ", ".join(f"{count} without {reason}" for reason, count in self._result.left_out.items())
            raise FlightLogError(f"{source}: no step has all inputs measured before it: {counts or 'there is none'}")

    @property
    def _short(self) -> bool:
        """Whether the acting command is put into the state here."""
        state = self._found.series.get("state")
        return state is None or state.values.shape[1] < len(self._contract.state_low)

    def _lacking(self, step_ns: int) -> str | None:
        """Return what has no message at a step or before it."""
        series = self._found.series
        late = [name for name in self._inputs if series[name].before(step_ns) < 0]
        if self._image_at(step_ns) < 0:
            late.append("depth")
        return late[0] if late else None

    def _image_at(self, step_ns: int) -> int:
        return int(np.searchsorted(self._found.images.times_ns, step_ns, side="right")) - 1

    def _command(self, source: Path, step_ns: int) -> Float64:
        names = ("command",) if "command" in self._found.series else ("thrust", "body_rates")
        command = np.concatenate([self._output(source, name, step_ns) for name in names])
        if command.size != len(self._contract.scale):
            raise FlightLogError(f"{source}: thrust and body rates are {command.size} numbers, the policy's actions "
                                 f"{len(self._contract.scale)}: map command in their place")  # fmt: skip
        return command

    def _output(self, source: Path, name: str, step_ns: int) -> Float64:
        series = self._found.series[name]
        index = series.nearest(step_ns)
        apart = abs(int(series.times_ns[index]) - step_ns) / 1e9
        if apart > self._contract.policy_period_s / 2:
            raise FlightLogError(
                f"{source}: the {name} nearest to the step at {step_ns / 1e9:.3f} s is {apart:.3f} s away, more than "
                "half a policy period: its clock is another one (give offset_s), or it was not recorded"
            )
        found: Float64 = series.values[index]
        return found

    def _optional(self, source: Path, name: str, step_ns: int) -> float | None:
        if name not in self._found.series:
            return None
        return float(self._output(source, name, step_ns)[0])

    def _record(self, source: Path, sequence: int, step_ns: int, command: Float64, acting: Float64 | None) -> Payload:
        n = command.size
        unknown = np.full(n, np.nan)
        graph = self._found.series.get("graph_output")
        gate, passed, event = (
            self._optional(source, name, step_ns) for name in ("gate_output", "gate_passed", "gate_event")
        )
        image = self._image_at(step_ns)
        state, state_ns = self._state(step_ns, unknown if acting is None else acting)
        record = LoggedStep(
            sequence=sequence,
            clock_ns=step_ns,
            duration_ns=round(1e9 * (self._optional(source, "duration", step_ns) or 0.0)),
            times=(step_ns / 1e9, state_ns / 1e9, self._found.images.times_ns[image] / 1e9),
            acting=self._acting(state, acting),
            command=command,
            first=(unknown if graph is None else self._output(source, "graph_output", step_ns)).astype(np.float32),
            gate=np.nan if gate is None else gate,
            passed=None if passed is None else bool(passed),
            event=None if event is None else bool(event),
            fault=None,
        )
        depth = self._found.images[image]
        depth = depth if self._resize is None else self._resize(depth)
        return record_payload(record, LoggedInputs(state, depth, None, None))

    def _acting(self, state: Float64, acting: Float64 | None) -> Float64:
        place = self._contract.last_action
        if place is not None and state.size == len(self._contract.state_low):
            return state[slice(*place)]
        return np.full(len(self._contract.scale), np.nan) if acting is None else acting

    def _state(self, step_ns: int, acting: Float64) -> tuple[Float64, int]:
        """Return the state at a step, without the acting command where it was not logged, and the time of it."""
        series = self._found.series
        places = {name: series[name].before(step_ns) for name in self._inputs}
        values = {name: series[name].values[place] for name, place in places.items()}
        aged = [int(series[name].times_ns[place]) for name, place in places.items() if name not in _RARELY_SENT]
        oldest = min(aged, default=step_ns)
        if "state" in values:
            return values["state"], oldest
        parts = []
        for term, made in zip(self._contract.text["observation"]["terms"], self._made, strict=True):
            if made == "quantities":
                parts.append(_TERMS[term["quantity"]][1](values))
            elif made != "commands":
                parts.append(values[made])
        return np.concatenate(parts), oldest


def _resize(mapping: Mapping, contract: OnboardContract) -> DepthResize | None:
    if mapping.depth.camera is None:
        return None
    try:
        return DepthResize(contract, Intrinsics(**mapping.depth.camera))
    except OnboardFault as fault:
        raise FlightLogError(f"the mapping's camera does not fit the policy's: {fault}") from fault
