"""Fly a bundle: guards, normalisation, inference, action transform, gate decision."""

import math
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .bundle import OnboardContract, load_bundle
from .detector import GateDetector
from .faults import Fault, OnboardFault
from .golden import replay, sigmoid
from .graph import Graph
from .guards import Clock, DepthGuard, StateGuard
from .options import OnboardOptions


class OnboardOutput(NamedTuple):
    """What one step gives.

    Attributes:
        command: (4,) collective thrust over mass in m/s², body rates x, y, z in rad/s.
        gate_probability: that this step passes the gate, None without a gate output.
        gate_passed: whether this step's output is at or above the contract's threshold; true for several steps of one
            passage. None without a gate output or threshold.
        gate_event: whether the contract's detector announces a passage with this step: once a passage. None likewise.
    """

    command: npt.NDArray[np.float64]
    gate_probability: float | None
    gate_passed: bool | None
    gate_event: bool | None


class OnboardPolicy:
    """A bundle, ready to fly: construction replays the golden samples and refuses on a mismatch.

    Args:
        bundle: the bundle's folder, or the ONNX file inside it.
        options: how to run.

    Attributes:
        contract: what the runner acts on.
        self_check: worst golden sample as a share of the tolerance.

    Raises:
        OnboardFault: the bundle is incomplete, altered or of another version, the provider is not the one asked for, or
            a golden sample comes out differently.
    """

    contract: OnboardContract
    self_check: float

    def __init__(self, bundle: Path | str, options: OnboardOptions | None = None) -> None:
        self.options = options = options or OnboardOptions()
        loaded = load_bundle(Path(bundle))
        self.contract = contract = loaded.contract
        self._graph = Graph(loaded.model, contract, options.provider, options.provider_options, options.threads)
        self.self_check = replay(self._graph, contract, loaded.golden, options.tolerance)
        self._state = StateGuard(contract, options.range_margin, self._graph.state)
        self._depth = DepthGuard(contract, options, self._graph.image)
        self._clock = Clock(contract, options)
        self._detector = None if contract.detector is None else GateDetector(contract.detector)
        self._transform = contract.scale.tolist(), contract.offset.tolist()
        self.reset()

    def _commands(self, action: list[float]) -> list[float]:
        """Return the physical command of an unbounded action; on four numbers quicker than in numpy."""
        limit = self.contract.action_clip
        if limit is not None:
            action = [min(max(value, -limit), limit) for value in action]
        # Not strict, since this runs in every step; the golden samples have gone through it at start.
        return [math.tanh(value) * scale + offset for value, scale, offset in zip(action, *self._transform)]  # noqa: B905

    def reset(self) -> None:
        """Forget the past commands, times and passages, as at the start of an episode."""
        # A zero action acts until the first computed one does.
        self._acting = deque([self.contract.offset.tolist()] * (self.contract.latency_steps + 1))
        self._clock.reset()
        self._depth.reset()
        if self._detector is not None:
            self._detector.reset()

    def hold(self, applied: npt.NDArray[np.floating] | None = None, now: float | None = None) -> None:
        """Say that a policy period passed without this policy's command, as after a refused step.

        Args:
            applied: (4,) command that was sent instead, thrust over mass and body rates; None if the last one was
                repeated.
            now: present time, s, as of `step`.

        Raises:
            OnboardFault: the command has another shape or is not finite.
        """
        command = self._acting[-1] if applied is None else np.asarray(applied, np.float64).tolist()
        if not isinstance(command, list) or len(command) != len(self.contract.scale) or not math.isfinite(sum(command)):
            raise OnboardFault(Fault.COMMAND, f"the command {command} is not {len(self.contract.scale)} finite numbers")
        self._acting.popleft()
        self._acting.append(command)
        self._clock.accept(now, None, None)
        if self._detector is not None:
            self._detector.pass_step()

    def step(
        self,
        state: npt.NDArray[np.floating],
        depth: npt.NDArray[np.generic],
        now: float | None = None,
        state_time: float | None = None,
        depth_time: float | None = None,
    ) -> OnboardOutput:
        """Compute the command of one policy period.

        Args:
            state: (12,) without the term `last_action`, which the runner then fills in from its own commands, or
                (16,) whole.
            depth: (72, 96) distance along the optical axis in metres, +inf where nothing returned; other forms by the
                options.
            now: present time, s, on the clock of the two that follow; without it nothing is checked for age or pace.
            state_time: when the state was measured.
            depth_time: when the image was taken.

        Raises:
            OnboardFault: an input is unusable or stale, the step comes too early or too late, or an output is not
                finite; past commands stay as they were. Tell the command that is sent instead with `hold`.
        """
        graph, contract = self._graph, self.contract
        if now is not None or state_time is not None or depth_time is not None:
            self._clock.check(now, state_time, depth_time)
        self._state.fill(state, self._acting[0])
        self._depth.fill(depth)
        graph.run()
        sent, gate = graph.first.tolist(), None if graph.gate is None else graph.gate.item()
        if not contract.physical:
            sent = self._commands(sent)
        if not math.isfinite(sum(sent)) or (gate is not None and not math.isfinite(gate)):
            raise OnboardFault(Fault.OUTPUT_NOT_FINITE, f"the graph gave {graph.first.tolist()} and {gate}")
        command = np.array(sent)
        self._acting.popleft()
        self._acting.append(sent)
        if now is not None:
            self._clock.accept(now, state_time, depth_time)
        if gate is None:
            return OnboardOutput(command, None, None, None)
        probability = gate if contract.gate_probability else sigmoid(gate)
        detector = self._detector
        if detector is None:
            return OnboardOutput(command, probability, None, None)
        return OnboardOutput(command, probability, gate >= detector.rule.threshold, detector.step(gate))
