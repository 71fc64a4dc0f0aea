"""Fly a bundle: guards, normalisation, inference, action transform, gate decision."""

import json
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from .bundle import CONTRACT_METADATA_KEY, FloatArray, OnboardContract, load_bundle
from .detector import GateDetector
from .faults import Fault, OnboardFault
from .guards import Clock, check_depth, check_state

# onnxruntime's own exceptions have no common base below Exception, and each version has others.
_RUNTIME_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        value
        for value in vars(onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)


@dataclass(frozen=True)
class OnboardOptions:
    """How to run.

    Attributes:
        provider: onnxruntime's execution provider; another one running instead is a fault.
        threads: threads of one inference.
        tolerance: largest error of a golden sample, absolute (times the action scale for commands) plus relative.
        max_state_age_s: oldest state that is accepted; two policy periods if None.
        max_depth_age_s: oldest image that is accepted; one camera period plus one policy period if None.
        range_margin: by which share of its range a state may leave it.
        zero_is_no_return: treat a depth of exactly 0 as no return, as RealSense cameras report it.
    """

    provider: str = "CPUExecutionProvider"
    threads: int = 1
    tolerance: float = 1e-5
    max_state_age_s: float | None = None
    max_depth_age_s: float | None = None
    range_margin: float = 0.05
    zero_is_no_return: bool = False


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
        self.options = options or OnboardOptions()
        loaded = load_bundle(Path(bundle))
        self.contract = loaded.contract
        self._session = _open_session(loaded.model, self.contract, self.options)
        period, frame = self.contract.policy_period_s, self.contract.depth_period_s
        state_age, depth_age = self.options.max_state_age_s, self.options.max_depth_age_s
        self._clock = Clock(
            2 * period if state_age is None else state_age, period + frame if depth_age is None else depth_age
        )
        self._detector = None if self.contract.detector is None else GateDetector(self.contract.detector)
        self.self_check = self._replay(loaded.golden)
        self.reset()

    def reset(self) -> None:
        """Forget the past commands and times, as at the start of an episode."""
        # A zero action acts until the first computed one does.
        self._acting = deque([self.contract.offset] * (self.contract.latency_steps + 1))
        self._clock.reset()
        if self._detector is not None:
            self._detector.reset()

    def step(
        self,
        state: npt.NDArray[np.floating],
        depth: npt.NDArray[np.floating],
        now: float | None = None,
        state_time: float | None = None,
        depth_time: float | None = None,
    ) -> OnboardOutput:
        """Compute the command of one policy period.

        Args:
            state: (12,) without the term `last_action`, which the runner then fills in from its own commands, or
                (16,) whole.
            depth: (72, 96) distance along the optical axis in metres, +inf where nothing returned.
            now: present time, s, on the clock of the two that follow; without it nothing is checked for age.
            state_time: when the state was measured.
            depth_time: when the image was taken.

        Raises:
            OnboardFault: an input is unusable or stale, or an output is not finite; past commands stay as they were.
        """
        self._clock.check(now, state_time, depth_time)
        whole = check_state(self.contract, self.options.range_margin, state, self._acting[0])
        image = check_depth(self.contract, self.options.zero_is_no_return, depth)
        first, gate = self._infer(whole, image)
        command = first if self.contract.physical else self.contract.command(first)
        if not np.isfinite(command).all() or (gate is not None and not math.isfinite(gate)):
            raise OnboardFault(Fault.OUTPUT_NOT_FINITE, f"the graph gave {first.tolist()} and {gate}")
        self._acting.popleft()
        self._acting.append(command)
        self._clock.accept(now, state_time, depth_time)
        if gate is None or self._detector is None:
            return OnboardOutput(command, self._probability(gate), None, None)
        passed = gate >= self._detector.rule.threshold
        return OnboardOutput(command, self._probability(gate), passed, self._detector.step(gate))

    def _infer(self, state: FloatArray, image: FloatArray) -> tuple[npt.NDArray[np.float64], float | None]:
        """Return first output (4,) and gate output for a state (16,) and a normalised image (72, 96)."""
        values = (
            [np.concatenate([state, image.reshape(-1)])[None]]
            if self.contract.flat
            else [state[None], image[None, None]]
        )
        outputs = self._session.run(None, dict(zip(self.contract.inputs, values, strict=True)))
        return outputs[0][0].astype(np.float64), float(outputs[1][0, 0]) if len(outputs) > 1 else None

    def _probability(self, gate: float | None) -> float | None:
        return gate if gate is None or self.contract.gate_probability else _sigmoid(gate)

    def _replay(self, golden: dict[str, FloatArray]) -> float:
        """Return the worst golden sample as a share of the tolerance; raise if one is out of it."""
        shares = [self._replay_sample(golden, row) for row in range(len(golden["observation"]))]
        worst = int(np.argmax(np.nan_to_num(shares, nan=np.inf)))
        # Written so that NaN is refused too.
        if not shares[worst] <= 1.0:
            raise OnboardFault(
                Fault.GOLDEN_MISMATCH,
                f"golden sample {worst}: off by {shares[worst]:.3g} times the tolerance {self.options.tolerance:g}; "
                "do not fly",
            )
        return shares[worst]

    def _replay_sample(self, golden: dict[str, FloatArray], row: int) -> float:
        """Return the largest error of one golden sample as a share of its tolerance."""
        contract, observation = self.contract, golden["observation"][row]
        size = len(contract.state_low)
        first, gate = self._infer(observation[:size], observation[size:].reshape(contract.image_shape))
        expected = None
        if gate is not None:
            expected = float(golden["gate_logit"][row, 0]), float(golden["gate_terms"][row, 0])
        return golden_share(contract, first, gate, golden["action"][row], expected, self.options.tolerance)


def golden_share(
    contract: OnboardContract,
    first: npt.NDArray[np.float64],
    gate: float | None,
    action: npt.NDArray[np.floating],
    logit_and_terms: tuple[float, float] | None,
    tolerance: float,
) -> float:
    """Return the largest error of the graph's outputs as a share of its tolerance; NaN where something is not finite.

    Args:
        contract: says what the outputs are.
        first: (4,) the graph's action or command.
        gate: the graph's gate output, None without one.
        action: (4,) the unbounded action that PyTorch gave.
        logit_and_terms: the gate logit that PyTorch gave, and the summed sizes of its terms; None without a gate.
        tolerance: absolute and relative.
    """
    expected, scale = action.astype(np.float64), np.ones(len(contract.scale))
    if contract.physical:
        expected, scale = contract.command(expected), contract.scale
    if gate is not None and logit_and_terms is not None:
        wanted, terms = logit_and_terms
        if contract.gate_probability:
            wanted = _sigmoid(wanted)
            terms *= wanted * (1 - wanted)
        first = np.append(first, gate)
        expected = np.append(expected, wanted)
        # A logit is a sum, and has the rounding errors of its terms; terms that are no numbers excuse nothing.
        scale = np.append(scale, max(1.0, 0.1 * terms) if math.isfinite(terms) else math.nan)
    with np.errstate(invalid="ignore"):
        error = np.abs(first - expected) / (tolerance * (scale + np.abs(expected)))
    return float(error.max())


def _sigmoid(logit: float) -> float:
    # By the sign, so that exp cannot overflow.
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))


def _open_session(model: bytes, contract: OnboardContract, options: OnboardOptions) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(model, settings, providers=[options.provider])
    except _RUNTIME_ERRORS as error:
        raise OnboardFault(
            Fault.RUNTIME, f"onnxruntime {onnxruntime.__version__} refuses policy.onnx: {error}"
        ) from error
    if session.get_providers()[0] != options.provider:
        raise OnboardFault(Fault.RUNTIME, f"{options.provider} was asked for, {session.get_providers()[0]} would run")
    metadata = session.get_modelmeta().custom_metadata_map.get(CONTRACT_METADATA_KEY, "null")
    if json.loads(metadata) != contract.text:
        raise OnboardFault(
            Fault.BUNDLE_ALTERED, "policy.onnx carries another contract than contract.json: copy it again"
        )
    names = tuple(value.name for value in session.get_inputs()), tuple(value.name for value in session.get_outputs())
    if names != (contract.inputs, contract.outputs):
        raise OnboardFault(Fault.CONTRACT_INVALID, f"policy.onnx has inputs and outputs {names}, not the contract's")
    return session
