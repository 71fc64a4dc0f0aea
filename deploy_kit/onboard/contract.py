"""The part of a contract that the runner acts on, read with its numbers checked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .detector import DetectorRule, slope_of
from .faults import Fault, OnboardFault
from .strict_json import strict_json

CONTRACT_VERSION = 2
CONTRACT_METADATA_KEY = "deploy_kit_contract"

MAX_LATENCY_STEPS = 100
"""More are no latency but a mistake."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class OnboardContract:
    """The part of a contract that the runner acts on.

    Attributes:
        text: the whole contract, parsed JSON.
        inputs: names of the graph's inputs.
        outputs: names of the graph's outputs.
        flat: whether the graph takes one flat observation.
        state_low: (16,) smallest state to be expected, in SI units; −inf where the contract does not know.
        state_high: (16,) largest state to be expected; inf likewise.
        state_clip: (2, 16) bounds that the training cut the state to; None where it did to none.
        state_scale: (16,) factors from the state to the network's numbers, after the cut; None where all are 1.
        last_action: [start, stop) of the command now acting within the state, None if the state has no such term.
        image_shape: (rows, columns).
        clip_m: depth at which metres are clipped.
        divisor_m: what clipped metres are divided by.
        scale: (4,) of the action transform.
        offset: (4,) of the action transform.
        action_clip: largest size of an unbounded action, None for no limit.
        physical: whether the graph gives commands already.
        gate_probability: whether the gate output is a probability; None without a gate output.
        detector: announces passages, in the unit of the gate output; None if the head was not calibrated.
        policy_period_s: time between two steps.
        depth_period_s: shortest time between two frames.
        latency_steps: policy steps between computing a command and its acting.
    """

    text: dict[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    flat: bool
    state_low: npt.NDArray[np.float64]
    state_high: npt.NDArray[np.float64]
    state_clip: npt.NDArray[np.float64] | None
    state_scale: npt.NDArray[np.float64] | None
    last_action: tuple[int, int] | None
    image_shape: tuple[int, int]
    clip_m: float
    divisor_m: float
    scale: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    action_clip: float | None
    physical: bool
    gate_probability: bool | None
    detector: DetectorRule | None
    policy_period_s: float
    depth_period_s: float
    latency_steps: int

    def command(self, action: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """Return the physical command (4,) of an unbounded action (4,)."""
        if self.action_clip is not None:
            action = np.clip(action, -self.action_clip, self.action_clip)
        command: npt.NDArray[np.float64] = np.tanh(action, dtype=np.float64)
        command *= self.scale
        command += self.offset
        return command


_UNUSABLE = (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, MemoryError)


def parse_contract(text: str) -> OnboardContract:
    """Return the runner's part of a contract.

    Raises:
        OnboardFault: another schema version, or a field is missing or unusable.
    """
    try:
        data = strict_json(text)
        version = data["schema_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise OnboardFault(Fault.CONTRACT_INVALID, f"contract.json cannot be read ({error!r})") from error
    if data.get("kind") == "policy":
        raise OnboardFault(Fault.CONTRACT_INVALID, "contract.json is no racing policy's: run it with TermPolicy")
    if version != CONTRACT_VERSION:
        raise OnboardFault(
            Fault.CONTRACT_VERSION,
            f"contract.json has schema version {version!r}, this runner reads {CONTRACT_VERSION}: "
            "make the bundle anew with deploy-kit export, or copy the runner of the deploy-kit that wrote it",
        )
    try:
        contract = _parse_fields(data)
        _check_numbers(contract)
        return contract
    except _UNUSABLE as error:
        raise OnboardFault(Fault.CONTRACT_INVALID, f"contract.json has an unusable field ({error!r})") from error


def _parse_fields(data: dict[str, Any]) -> OnboardContract:
    observation, action, gate, timing = (data[key] for key in ("observation", "action", "gate", "timing"))
    depth, terms = observation["depth"], observation["terms"]
    batch = data["inputs"][0]["shape"][0]
    if batch not in ("batch", 1):
        raise ValueError(f"the graph takes batches of {batch}; export with --batch-size 1 or dynamic")
    probability = None if gate is None else gate["output"] == "probability"
    acting = [(term["start"], term["stop"]) for term in terms if term["quantity"] == "last_action"]
    if depth["clip_m"] is None or depth["divisor_m"] is None:
        raise ValueError("how metres become the depth image is unknown; export with depth_range_m in --vehicle FILE")
    return OnboardContract(
        text=data,
        inputs=tuple(spec["name"] for spec in data["inputs"]),
        outputs=tuple(spec["name"] for spec in data["outputs"]),
        flat=observation["layout"] == "flat",
        state_low=_concatenate(terms, "low", -np.inf),
        state_high=_concatenate(terms, "high", np.inf),
        state_clip=_clips(terms),
        state_scale=_concatenate(terms, "scale", 1.0) if any(term["scale"] for term in terms) else None,
        last_action=acting[0] if acting else None,
        image_shape=(int(depth["rows"]), int(depth["columns"])),
        clip_m=float(depth["clip_m"]),
        divisor_m=float(depth["divisor_m"]),
        scale=np.array(action["scale"], np.float64),
        offset=np.array(action["offset"], np.float64),
        action_clip=None if action["clip"] is None else float(action["clip"]),
        physical=bool(action["inside_graph"]),
        gate_probability=probability,
        detector=None if gate is None or gate["detector"] is None else _detector(gate["detector"], bool(probability)),
        policy_period_s=float(timing["policy_period_s"]["value"]),
        depth_period_s=float(timing["depth_period_s"]["value"]),
        latency_steps=int(timing["action_latency_steps"]["value"]),
    )


def _check_numbers(contract: OnboardContract) -> None:
    """Raise ValueError for numbers that no flight can have; written so that NaN is refused too."""
    for name in ("policy_period_s", "depth_period_s", "clip_m", "divisor_m"):
        if not 0 < getattr(contract, name) < np.inf:
            raise ValueError(f"{name} is {getattr(contract, name)}, not a number above 0")
    if not 0 <= contract.latency_steps <= MAX_LATENCY_STEPS:
        raise ValueError(f"action_latency_steps is {contract.latency_steps}, not 0 to {MAX_LATENCY_STEPS}")
    if contract.scale.ndim != 1 or contract.scale.shape != contract.offset.shape:
        raise ValueError(f"the action's scale has shape {contract.scale.shape}, its offset {contract.offset.shape}")
    acting = contract.last_action
    if acting is not None and acting[1] - acting[0] != len(contract.scale):
        raise ValueError(f"last_action has {acting[1] - acting[0]} numbers, the action has {len(contract.scale)}")
    if not (np.isfinite(contract.scale).all() and np.isfinite(contract.offset).all()):
        raise ValueError("the action's scale or offset is not finite")
    if not (contract.state_low <= contract.state_high).all():
        raise ValueError("a term's low is above its high, or no number")
    if contract.action_clip is not None and not 0 < contract.action_clip < np.inf:
        raise ValueError(f"the action's clip is {contract.action_clip}, not a number above 0")


def _concatenate(terms: list[dict[str, Any]], key: str, unknown: float) -> npt.NDArray[np.float64]:
    """Return a number a component of the state, `unknown` where the contract has none."""
    columns = [
        np.full(term["stop"] - term["start"], unknown) if term[key] is None else np.array(term[key], np.float64)
        for term in terms
    ]
    return np.concatenate(columns)


def _clips(terms: list[dict[str, Any]]) -> npt.NDArray[np.float64] | None:
    if all(term["clip"] is None for term in terms):
        return None
    bounds = [term["clip"] or (-np.inf, np.inf) for term in terms]
    sizes = [term["stop"] - term["start"] for term in terms]
    return np.repeat(np.array(bounds, np.float64), sizes, axis=0).T


def _detector(detector: dict[str, Any], probability: bool) -> DetectorRule:
    unit = "probability" if probability else "logit"
    threshold, release = (float(detector[f"{name}_{unit}"]) for name in ("threshold", "release"))
    refractory = int(detector["refractory_steps"])
    # Written so that NaN is refused too.
    if not -np.inf < release <= threshold < np.inf or refractory < 0:
        raise ValueError(f"the detector's threshold {threshold}, release {release}, refractory steps {refractory}")
    return DetectorRule(threshold, release, refractory, slope_of(detector, probability))
