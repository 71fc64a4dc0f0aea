"""From recorded raw inputs to what the network must have seen, by the contract and without the runner's code."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.runners import Float32
from deploy_kit.flightlog.reader import FlightLog
from deploy_kit.flightlog.records import LoggedInputs, LoggedStep

BLOCK = 256

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Flown steps with their inputs.

    Attributes:
        steps: the steps.
        state: (n, state) the whole state, SI units, with the acting command where the caller left it out.
        depth: (n, rows, columns) the images as given.
        observation: (n, size) flat, as the contract makes it of the two.
        seen: (n, size) what the network saw by the log.
    """

    steps: list[LoggedStep]
    state: Float64
    depth: npt.NDArray[np.generic]
    observation: Float32
    seen: Float32


def blocks(log: FlightLog, contract: Contract) -> Iterator[Block]:
    """Yield the flown steps in order; steps without recorded inputs are left out."""
    steps = log.flown
    for start in range(0, len(steps), BLOCK):
        taken = [(step, log.inputs(step)) for step in steps[start : start + BLOCK]]
        usable = [(step, inputs) for step, inputs in taken if inputs.state is not None and inputs.depth is not None]
        # Images of another type than the one before begin another block.
        for _, part in itertools.groupby(
            usable, key=lambda pair: None if pair[1].depth is None else pair[1].depth.dtype
        ):
            yield _block(list(part), log, contract)


def _block(part: list[tuple[LoggedStep, LoggedInputs]], log: FlightLog, contract: Contract) -> Block:
    state = np.stack([whole_state(inputs.state, step.acting, contract) for step, inputs in part])
    depth = np.stack([inputs.depth for _, inputs in part if inputs.depth is not None])
    image = network_image(depth, contract, log.header["options"]).reshape(len(part), -1)
    observation = np.concatenate((network_state(state, contract), image), axis=1)
    seen = [
        observation[row]
        if inputs.network_state is None or inputs.network_image is None
        else np.concatenate((inputs.network_state, inputs.network_image.ravel()))
        for row, (_, inputs) in enumerate(part)
    ]
    return Block([step for step, _ in part], state, depth, observation, np.stack(seen))


def whole_state(state: npt.NDArray[np.generic] | None, acting: Float64, contract: Contract) -> Float64:
    """Return the whole state; NaN throughout where its size fits neither way."""
    values = np.full(contract.observation.state_size, np.nan) if state is None else state.astype(np.float64)
    short = contract.observation.state_size - acting.size
    if values.size == short:
        term = next((term for term in contract.observation.terms if term.quantity == "last_action"), None)
        if term is not None:
            return np.insert(values, [term.start] * acting.size, acting)
    return values if values.size == short + acting.size else np.full(short + acting.size, np.nan)


def network_state(state: Float64, contract: Contract) -> Float32:
    """Return the network's numbers (n, state) of states in SI units: clipped, then scaled."""
    result = state.copy()
    for term in contract.observation.terms:
        part = slice(term.start, term.stop)
        if term.clip is not None:
            result[:, part] = np.clip(result[:, part], *term.clip)
        if term.scale is not None:
            result[:, part] *= np.array(term.scale)
    return result.astype(np.float32)


def network_image(depth: npt.NDArray[np.generic], contract: Contract, options: dict[str, object]) -> Float32:
    """Return the network's images (n, rows, columns) of images as cameras give them.

    Args:
        depth: as given.
        contract: gives clip and divisor; both are known, or nothing flew.
        options: the runner's, which say what the camera's numbers mean.
    """
    spec = contract.observation.depth
    assert spec.clip_m is not None
    assert spec.divisor_m is not None
    metres: npt.NDArray[Any] = depth
    if any(options.get(name) for name in ("depth_in_millimetres", "zero_is_no_return", "nan_is_no_return")):
        metres = depth.astype(np.float32)
        if options.get("zero_is_no_return"):
            metres[depth == 0] = np.inf
        if options.get("nan_is_no_return"):
            metres[np.isnan(metres)] = np.inf
        if options.get("depth_in_millimetres"):
            metres = metres * np.float32(1e-3)
    clipped = np.minimum(metres, np.float32(spec.clip_m)).astype(np.float32)
    image: Float32 = clipped / np.float32(spec.divisor_m)
    return image
