"""Fly a bundle: guards, normalisation, inference, action transform, gate decision."""

import math
import platform
from collections import deque
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .bundle import OnboardBundle, load_bundle
from .contract import OnboardContract
from .detector import GateDetector
from .engine import open_engine, open_literal
from .faults import Fault, OnboardFault
from .golden import replay, replay_literally, sigmoid
from .guards import Clock, DepthGuard, StateGuard, require_time
from .log_writer import RecordingOptions
from .native import NativeEngine
from .options import OnboardOptions
from .recorder import Recorder, StepResult
from .verification import Verification

_made = tuple.__new__


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
        log: file to record each step to, or a folder (made if the name ends with "/") in which a free name is taken;
            None for no log.
        recording: bounds of the log.

    Attributes:
        contract: what the runner acts on.
        self_check: worst golden sample as a share of the tolerance.
        engine: what computes the network, in words.
        recorder: writes the log; None without one.
        verification: what the report beside the bundle says of these very files.

    Raises:
        OnboardFault: the bundle is incomplete, altered or of another version, its verification failed or names another
            runtime, the provider is not the one asked for, a golden sample comes out differently, or the log cannot be
            written.
    """

    contract: OnboardContract
    self_check: float
    engine: str
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
        loaded = load_bundle(Path(bundle), options.trusted, options.engine)
        self.contract = contract = loaded.contract
        self.verification = loaded.verification
        if not options.allow_unverified:
            if options.native:
                self.verification.require_engine(options.engine)
            elif options.engine == "onnxruntime":
                self.verification.require(options.runtime)
            else:
                self.verification.require_variant(options.engine, options.runtime)
        self._graph = open_engine(loaded, options)
        self.self_check = replay(self._graph, contract, loaded.golden, options.tolerance, options.golden_tolerance)
        literal = open_literal(loaded, options)
        if literal is not None:
            replay_literally(self._graph, literal, contract, loaded.golden)
        self._state = StateGuard(contract, options.range_margin, self._graph.state)
        self._depth = DepthGuard(contract, options, self._graph.image)
        self._clock = Clock(contract, options)
        self._detector = None if contract.detector is None else GateDetector(contract.detector)
        native = self._graph if isinstance(self._graph, NativeEngine) else None
        # Images of other forms go through the guards here, as with every engine.
        self._native = native if native is not None and self._depth.plain else None
        if self._native is not None:
            self._native.bound(*self._state.bounds)
        versions = (f"{name} {value}" for name, value in self._graph.versions.items())
        self.engine = ", ".join((self._graph.providers[0], f"threads: {options.threads}", *versions))
        self._transform = contract.scale.tolist(), contract.offset.tolist()
        self.recorder = None
        # Calls that are within a step: a lock would stay locked where Ctrl-C comes just as it is taken.
        self._within: set[object] = set()
        self.reset()
        if log is not None:
            header = self._describe(loaded)
            self.recorder = Recorder(log, header, self._graph, len(contract.scale), recording or RecordingOptions())

    def _describe(self, bundle: OnboardBundle) -> dict[str, Any]:
        """Return what the log's header says: what flies, on what, and how."""
        contract = self.contract
        return {
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),  # noqa: UP017 # Python 3.10 too
            "files": bundle.sha256,
            "providers": self._graph.providers,
            "options": asdict(self.options),
            "engine": self.options.engine,
            **self._graph.versions,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
            "self_check": self.self_check,
            "num_actions": len(contract.scale),
            "state_size": len(contract.state_low),
            "image_shape": contract.image_shape,
            "contract": contract.text,
        }

    def close(self) -> None:
        """Write what the log still lacks and close it; without a log there is nothing to do."""
        if self.recorder is not None:
            self.recorder.close()

    def _commands(self, action: list[float]) -> list[float]:
        """Return the physical command of an unbounded action; on four numbers quicker than in numpy."""
        limit = self.contract.action_clip
        if limit is not None:
            action = [min(max(value, -limit), limit) for value in action]
        # Without `strict`, which costs time in each step; all have as many numbers, as the contract was read.
        return [math.tanh(value) * scale + offset for value, scale, offset in zip(action, *self._transform)]  # noqa: B905

    def reset(self) -> None:
        """Forget the past commands, times and passages, as at the start of an episode."""
        # A zero action acts until the first computed one does.
        # Full at all times, so that an append also drops the oldest: nothing, not even Ctrl-C, comes between.
        waiting = self.contract.latency_steps + 1
        self._acting = deque([self.contract.offset.tolist()] * waiting, maxlen=waiting)
        self._clock.reset()
        self._depth.reset()
        if self._detector is not None:
            self._detector.reset()
        if self.recorder is not None:
            self.recorder.reset()

    def hold(self, applied: npt.NDArray[np.floating] | None = None, now: float | None = None) -> None:
        """Say that a policy period passed without this policy's command, as after a refused step.

        Args:
            applied: (4,) command that was sent instead, thrust over mass and body rates; None if the last one was
                repeated.
            now: present time, s, as of `step`.

        Raises:
            OnboardFault: the command has another shape or is not finite, or the time is no number; nothing has changed
                then.
        """
        command = self._acting[-1] if applied is None else self._told(applied)
        if now is not None:
            require_time("now", now)
        self._acting.append(command)
        self._clock.accept(now, None, None)
        if self._detector is not None:
            self._detector.pass_step()
        if self.recorder is not None:
            self.recorder.held(command, applied is not None, now)

    def _told(self, applied: Any) -> list[float]:
        """Return the numbers of a command that flew."""
        count = len(self.contract.scale)
        try:
            command = np.asarray(applied, np.float64)
            fits = command.shape == (count,) and bool(np.isfinite(command).all())
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            raise OnboardFault(Fault.COMMAND, f"the command {applied!s:.80} is not {count} finite numbers")
        numbers: list[float] = command.tolist()
        return numbers

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
            OnboardFault: an input is unusable or stale, the step comes too early or too late, an output is not finite,
                the log has ended where it must not, or another thread is within a step; past commands stay as they
                were. Tell the command that is sent instead with `hold`.
        """
        acting, native, recorder, began = self._acting, self._native, self.recorder, 0
        within, call = self._within, object()
        try:
            within.add(call)
            # Two threads would write into the same buffers, and each fly the other's command.
            if len(within) > 1:
                recorder = None
                raise OnboardFault(Fault.CONCURRENT, "another thread is within step: call it from one thread")
            # One function, since each call costs as much as what it does.
            if recorder is not None:
                began = recorder.clock()
                recorder.require_recording()
            if now is not None or state_time is not None or depth_time is not None:
                self._clock.check(now, state_time, depth_time)
            sent = None if native is None else native.step(state, depth, acting[0])
            if native is not None and sent is not None:
                # It has seen the image, and that everything is finite.
                self._depth.blind_steps = 0
                command = native.command()
            else:
                # What a native step does not take is named, or taken, here.
                sent = self._compute_here(state, depth, acting[0])
                command = np.array(sent)
            acted = acting[0]
            acting.append(sent)
            if now is not None:
                self._clock.accept(now, state_time, depth_time)
            given, detector = self._graph.gate, self._detector
            gate = probability = passed = event = None
            if given is not None:
                gate = given.item()
                probability = gate if self.contract.gate_probability else sigmoid(gate)
                if detector is not None:
                    passed, event = gate >= detector.rule.threshold, detector.step(gate)
            # As a tuple, which takes half the time.
            output = _made(OnboardOutput, (command, probability, passed, event))
            if recorder is not None:
                result = StepResult(sent, self._graph.first.tolist(), gate, passed, event)
                recorder.accepted(began, (state, depth), (now, state_time, depth_time), acted, result)
            return output
        except OnboardFault as fault:
            if recorder is not None:
                recorder.refused(began, (state, depth), (now, state_time, depth_time), acting[0], fault)
            raise
        finally:
            within.discard(call)

    def _compute_here(
        self, state: npt.NDArray[np.floating], depth: npt.NDArray[np.generic], acting: list[float]
    ) -> list[float]:
        """Guard, run and transform step by step; return the command."""
        graph = self._graph
        self._state.fill(state, acting)
        self._depth.fill(depth)
        graph.run()
        first, gate = graph.first.tolist(), 0.0 if graph.gate is None else graph.gate.item()
        sent = first if self.contract.physical else self._commands(first)
        # The action too: tanh makes a command even of infinity.
        if not math.isfinite(sum(sent) + sum(first) + gate):
            raise OnboardFault(Fault.OUTPUT_NOT_FINITE, f"the graph gave {first} and {gate}")
        return sent
