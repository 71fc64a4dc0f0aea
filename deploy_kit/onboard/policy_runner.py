"""Run the bundle of any policy by its contract's terms: guards, joints by name, memory, inference, commands, head."""

import platform
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime

from .bundle import read_files
from .detector import GateDetector
from .faults import Fault, OnboardFault
from .golden import sigmoid
from .guards import Clock, require_time
from .log_writer import RecordingOptions
from .options import OnboardOptions
from .policy_contract import Float64, PolicyOnboardContract, parse_policy_contract
from .policy_golden import read_sequences
from .policy_graph import PolicyGraph, replay_sequences
from .recorder import Recorder, StepResult
from .terms import TermAssembler, joint_permutation
from .verification import Verification


class TermOutput(NamedTuple):
    """What one step gives.

    Attributes:
        command: (n,) commands in the contract's unit, joints in the robot's order; None where the contract does not
            know scale and offset.
        action: (n,) the network's actions after the limit, in the policy's order.
        probability: that the label is true of this step, None without a head.
        positive: whether the head's logit is at or above the contract's threshold. None without a head or threshold.
        event: whether the contract's detector announces an event with this step: once an event. None likewise.
    """

    command: npt.NDArray[np.float64] | None
    action: npt.NDArray[np.float64]
    probability: float | None
    positive: bool | None
    event: bool | None


class TermPolicy:
    """A bundle of any policy, ready to run: construction replays the golden sequences and refuses on a mismatch.

    Args:
        bundle: the bundle's folder, or the ONNX file inside it.
        options: how to run. A contract that names joints needs `joint_order`.
        log: file to record each step to, or a folder (made if the name ends with "/") in which a free name is taken;
            None for no log.
        recording: bounds of the log.

    Attributes:
        contract: what the runner acts on.
        terms: keys that `step` takes.
        engine: what computes the network, in words.
        self_check: worst golden step as a share of the tolerance.
        recorder: writes the log; None without one.
        verification: what the report beside the bundle says of these very files.

    Raises:
        OnboardFault: the bundle is incomplete, altered or of another version, its verification failed or names another
            runtime, the provider is not the one asked for, a golden step comes out differently, the robot's joints are
            not named or are others, or the log cannot be written.
    """

    contract: PolicyOnboardContract
    terms: tuple[str, ...]
    engine: str
    self_check: float
    recorder: Recorder | None
    verification: Verification

    def __init__(
        self,
        bundle: Path | str,
        options: OnboardOptions | None = None,
        log: Path | str | None = None,
        recording: RecordingOptions | None = None,
    ) -> None:
        self.options = options = options or OnboardOptions()
        if options.engine != "onnxruntime":
            raise OnboardFault(
                Fault.OPTIONS,
                f"engine {options.engine!r} runs bundles of the racing policy alone: other policies have neither C++ "
                "header nor variants, and fly on onnxruntime; leave engine out",
            )
        files = read_files(Path(bundle), options.trusted)
        self.contract = contract = parse_policy_contract(files.content["contract.json"].decode("utf-8", "replace"))
        self.verification = files.verification
        if not options.allow_unverified:
            self.verification.require(options.runtime)
        self._graph = PolicyGraph(files.content["policy.onnx"], contract, options)
        golden = read_sequences(files.content["golden.npz"], contract)
        self.self_check = replay_sequences(self._graph, contract, golden, options.tolerance)
        order = _joint_order(contract, options)
        self._assembler = TermAssembler(contract, order, options.range_margin, self._graph.groups)
        self.terms = self._assembler.names
        versions = f"onnxruntime {onnxruntime.__version__}"
        self.engine = ", ".join((self._graph.providers[0], f"threads: {options.threads}", versions))
        self._to_robot = _to_robot(contract, order)
        period = contract.policy_period_s
        # There is no camera: a group that is an image has no time of its own.
        periods: Any = SimpleNamespace(policy_period_s=period, depth_period_s=period)
        self._clock = None if period is None else Clock(periods, options)
        self._detector = None if contract.detector is None else GateDetector(contract.detector)
        self.recorder = None
        # Calls that are within a step: a lock would stay locked where Ctrl-C comes just as it is taken.
        self._within: set[object] = set()
        self.reset()
        if log is not None:
            header = self._describe(files.sha256)
            self.recorder = Recorder(log, header, self._graph, contract.num_actions, recording or RecordingOptions())

    def _describe(self, sha256: dict[str, str]) -> dict[str, Any]:
        """Return what the log's header says: what runs, on what, and how."""
        return {
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 # Python 3.10 too
            "files": sha256,
            "providers": self._graph.providers,
            "options": asdict(self.options),
            "onnxruntime": onnxruntime.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "self_check": self.self_check,
            "num_actions": self.contract.num_actions,
            "state_size": len(self._graph.state),
            "image_shape": self._graph.image.shape,
            "contract": self.contract.text,
        }

    def close(self) -> None:
        """Write what the log still lacks and close it; without a log there is nothing to do."""
        if self.recorder is not None:
            self.recorder.close()

    def reset(self) -> None:
        """Forget memory, histories, the past action, times and events, as at the start of an episode."""
        self._graph.reset()
        self._assembler.reset()
        self._last_action: Float64 = np.zeros(self.contract.num_actions)
        if self._clock is not None:
            self._clock.reset()
        if self._detector is not None:
            self._detector.reset()
        if self.recorder is not None:
            self.recorder.reset()

    def hold(self, now: float | None = None) -> None:
        """Say that a policy period passed without this policy's command, as after a refused step.

        Memory, histories and the past action stay as they were.

        Args:
            now: present time, s, as of `step`.

        Raises:
            OnboardFault: the time is no number.
        """
        if now is not None:
            require_time("now", now)
        if self._clock is not None:
            self._clock.accept(now, None, None)
        if self._detector is not None:
            self._detector.pass_step()
        if self.recorder is not None:
            self.recorder.held(self._last_action.tolist(), False, now)

    def step(self, terms: Mapping[str, Any], now: float | None = None, terms_time: float | None = None) -> TermOutput:
        """Compute the command of one policy period.

        Args:
            terms: value of each of `self.terms` in the contract's unit, joints in the robot's order. A group without
                known terms is given whole, as the network reads it.
            now: present time, s, on the clock of the one that follows; without it nothing is checked for age or pace.
            terms_time: when the oldest of the terms was measured.

        Raises:
            OnboardFault: a term is missing, unusable or stale, the step comes too early or too late, an output is not
                finite, the log has ended where it must not, or another thread is within a step; memory and past action
                stay as they were.
        """
        call = object()
        try:
            self._within.add(call)
            # Two threads would write into the same buffers.
            if len(self._within) > 1:
                raise OnboardFault(Fault.CONCURRENT, "another thread is within step: call it from one thread")
            return self._recorded(terms, now, terms_time)
        finally:
            self._within.discard(call)

    def _recorded(self, terms: Mapping[str, Any], now: float | None, terms_time: float | None) -> TermOutput:
        recorder = self.recorder
        if recorder is None:
            return self._compute(terms, now, terms_time)
        began, before, times = recorder.clock(), self._last_action.tolist(), (now, terms_time, None)
        try:
            recorder.require_recording()
            output = self._compute(terms, now, terms_time)
        except OnboardFault as fault:
            recorder.refused(began, (self._given(terms), self._graph.image), times, before, fault)
            raise
        command = output.action if output.command is None else output.command
        logit = None if self._graph.logit is None else self._graph.logit.item()
        result = StepResult(command.tolist(), output.action.tolist(), logit, output.positive, output.event)
        given = self._given(terms)
        assert given is not None
        recorder.accepted(began, (given, self._graph.image), times, before, result)
        return output

    def _given(self, terms: Mapping[str, Any]) -> Float64 | None:
        """Return the values as they were given, one term after another; None if they are no numbers."""
        try:
            parts = [np.asarray(terms[name], np.float64).reshape(-1) for name in self.terms]
            return np.concatenate(parts) if parts else np.empty(0)
        except (TypeError, ValueError, KeyError, OverflowError):
            return None

    def _compute(self, terms: Mapping[str, Any], now: float | None, terms_time: float | None) -> TermOutput:
        if now is not None or terms_time is not None:
            if self._clock is None:
                raise OnboardFault(
                    Fault.CLOCK,
                    "the contract knows no policy period, so times cannot be checked: leave out now and terms_time, or "
                    "state policy_period_s in params/interface.yaml and export again",
                )
            self._clock.check(now, terms_time, None)
        graph, contract = self._graph, self.contract
        self._assembler.fill(terms, self._last_action)
        graph.run()
        if not graph.is_finite():
            raise OnboardFault(Fault.OUTPUT_NOT_FINITE, f"the graph gave {graph.action.tolist()} and {graph.logit}")
        graph.keep()
        self._assembler.keep()
        action = np.clip(graph.action.astype(np.float64), -contract.actions.limit, contract.actions.limit)
        self._last_action = action
        if now is not None and self._clock is not None:
            self._clock.accept(now, terms_time, None)
        command = self._command(action)
        if graph.logit is None:
            return TermOutput(command, action, None, None, None)
        logit, detector = graph.logit.item(), self._detector
        if detector is None:
            return TermOutput(command, action, sigmoid(logit), None, None)
        return TermOutput(command, action, sigmoid(logit), logit >= detector.rule.threshold, detector.step(logit))

    def _command(self, action: Float64) -> Float64 | None:
        actions = self.contract.actions
        if actions.scale is None or actions.offset is None:
            return None
        command: Float64 = np.clip(action * actions.scale + actions.offset, actions.low, actions.high)
        return command if self._to_robot is None else command[self._to_robot]


def _joint_order(contract: PolicyOnboardContract, options: OnboardOptions) -> tuple[str, ...] | None:
    """Return the robot's joints in its order.

    Raises:
        OnboardFault: they are not given where the contract names joints, or given where it names none.
    """
    named, order = contract.joints, options.joint_order
    if not named:
        if order is not None:
            raise OnboardFault(
                Fault.OPTIONS, "the contract names no joints, so joint_order has no effect: leave it out"
            )
        return None
    if order is None:
        raise OnboardFault(
            Fault.OPTIONS,
            "the contract names joints, and robots list them in orders of their own: give your robot's as "
            f"OnboardOptions(joint_order=[…]); the policy's is {', '.join(named)}",
        )
    return tuple(order)


def _to_robot(contract: PolicyOnboardContract, order: tuple[str, ...] | None) -> npt.NDArray[np.int64] | None:
    """Return where in the policy's order each of the robot's commanded joints stands."""
    actions = contract.actions
    if not actions.joints or actions.names is None or order is None:
        return None
    # Refuses a robot that lacks a joint.
    joint_permutation(actions.names, order, "the action")
    names = list(actions.names)
    return np.array([names.index(name) for name in order if name in names], np.int64)
