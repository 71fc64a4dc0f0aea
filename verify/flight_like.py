"""Inputs as flight gives them: recorded ones changed a little, and states and images drawn as a flight's look."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.sampling_range import pixel_range, term_range
from deploy_kit.policy.run.state_term import StateTerm
from deploy_kit.task.racing import GRAVITY
from deploy_kit.verify.samples import Float32, SampleSet, state_range

Float64 = npt.NDArray[np.float64]

_SMALLEST_JITTER, _LARGEST_JITTER = 1e-4, 0.3
"""Shares of a number's range by which recorded observations are moved, log-uniform between these."""

_TYPICAL_SPEED, _FARTHEST_GATE = 5.0, 15.0
"""m/s and m: the racing task's flights stay near these; nothing is judged by them."""


def near_samples(base: Float32, contract: Contract, rows: int, seed: int, described: str) -> SampleSet:
    """Return observations around recorded ones: moved a little, states of one with the image of another.

    Args:
        base: (n, 6928) recorded observations.
        contract: gives the ranges, which no row leaves farther than its recorded one.
        rows: how many.
        seed: seed of the draw.
        described: what `base` is.
    """
    rng = np.random.default_rng((seed, 1))
    first, second = rng.integers(len(base), size=(2, rows))
    low, high = observation_range(contract)
    split = contract.observation.state_size
    result = base[first].astype(np.float64)
    # A third keep their own image, a third take another one's, a third take half of another one's state.
    kind = np.arange(rows) % 3
    result[kind == 1, split:] = base[second[kind == 1], split:]
    taken = rng.random((rows, split)) < 0.5
    taken[kind != 2] = False
    result[:, :split] = np.where(taken, base[second, :split], result[:, :split])
    amount = np.exp(rng.uniform(np.log(_SMALLEST_JITTER), np.log(_LARGEST_JITTER), (rows, 2)))
    # Some keep state or image as recorded.
    amount[rng.random((rows, 2)) < 0.2] = 0.0
    noise = rng.standard_normal(result.shape)
    noise[:, :split] *= amount[:, :1]
    noise[:, split:] *= amount[:, 1:]
    moved = result + noise * (high - low)
    result = np.clip(moved, np.minimum(low, result), np.maximum(high, result))
    for term in contract.observation.terms:
        if term.quantity == "base_orientation":
            result[:, term.start : term.stop] = _unit(result[:, term.start : term.stop], term)
    return SampleSet(
        "near",
        f"inputs around {described}, seed {seed}",
        result.astype(np.float32),
        lambda row: f"input {row} near row {int(first[row])}",
    )


def flight_like_samples(contract: Contract, rows: int, seed: int) -> SampleSet:
    """Return observations drawn as flights look: upright attitudes, usual speeds and distances, ground and frames.

    Args:
        contract: says what each term is; terms of unknown meaning are drawn from the middle of their range.
        rows: how many.
        seed: seed of the draw.
    """
    rng = np.random.default_rng((seed, 2))
    terms = [_network_numbers(_DRAWS.get(term.quantity or "", _middle)(term, rows, rng), term) for term in
             contract.observation.terms]  # fmt: skip
    image = _images(contract, rows, rng)
    return SampleSet(
        "flight-like",
        f"states and images as in flight, seed {seed}",
        np.concatenate((*terms, image.reshape(rows, -1)), axis=1).astype(np.float32),
        lambda row: f"flight-like input {row}",
    )


def observation_range(contract: Contract) -> tuple[Float64, Float64]:
    """Return the lowest and highest number expected of a flat observation, (6928,) each."""
    low, high = state_range(contract)
    nearest, farthest = pixel_range(contract.observation.depth)
    pixels = contract.observation.size - low.size
    return np.concatenate((low, np.full(pixels, nearest))), np.concatenate((high, np.full(pixels, farthest)))


def _network_numbers(values: Float64, term: StateTerm) -> Float64:
    """Return what the network sees of physical values (n, size)."""
    scale = np.ones(values.shape[1]) if term.scale is None else np.array(term.scale)
    if term.clip is not None:
        values = np.clip(values, *term.clip)
    low, high = term_range(term)
    return np.clip(values * scale, low, high)


def _unit(numbers: Float64, term: StateTerm) -> Float64:
    """Return rows of the network's numbers with the values behind them on the unit sphere."""
    scale = np.ones(numbers.shape[1]) if term.scale is None else np.array(term.scale)
    values = numbers / scale
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(np.where(length > 0, values / np.where(length > 0, length, 1.0), values) * scale)


def _upright(term: StateTerm, rows: int, rng: np.random.Generator) -> Float64:
    tilt, azimuth = np.minimum(np.abs(rng.normal(0.0, 0.6, rows)), np.pi), rng.uniform(-np.pi, np.pi, rows)
    return np.stack((np.sin(tilt) * np.cos(azimuth), np.sin(tilt) * np.sin(azimuth), np.cos(tilt)), axis=1)


def _forward(length: Float64, rng: np.random.Generator) -> Float64:
    """Return vectors of these lengths, most of them forward of the drone."""
    direction = rng.standard_normal((len(length), 3)) * (0.4, 0.4, 0.25) + (1.0, 0.0, 0.0)
    return np.asarray(length[:, None] * direction / np.linalg.norm(direction, axis=1, keepdims=True))


def _velocity(term: StateTerm, rows: int, rng: np.random.Generator) -> Float64:
    return _forward(rng.gamma(4.0, _TYPICAL_SPEED / 4.0, rows), rng)


def _distance(term: StateTerm, rows: int, rng: np.random.Generator) -> Float64:
    return _forward(rng.uniform(0.0, _FARTHEST_GATE, rows), rng)


def _command(term: StateTerm, rows: int, rng: np.random.Generator) -> Float64:
    rates = rng.normal(0.0, 2.0, (rows, term.stop - term.start - 1))
    return np.concatenate((rng.normal(GRAVITY, 0.3 * GRAVITY, (rows, 1)), rates), axis=1)


def _middle(term: StateTerm, rows: int, rng: np.random.Generator) -> Float64:
    low = np.full(term.stop - term.start, -1.0) if term.low is None else np.array(term.low)
    high = np.full(term.stop - term.start, 1.0) if term.high is None else np.array(term.high)
    return np.asarray(low + (high - low) * rng.beta(3.0, 3.0, (rows, low.size)))


_DRAWS: dict[str, Callable[[StateTerm, int, np.random.Generator], Float64]] = {
    "base_lin_vel": _velocity,
    "base_orientation": _upright,
    "target_position": _distance,
    "next_target_offset": _distance,
    "last_action": _command,
}
"""How each quantity of `task.interface.STATE_TERMS` is drawn, in its unit."""


def _images(contract: Contract, rows: int, rng: np.random.Generator) -> Float64:
    """Return images (n, rows, columns): far background, ground below the horizon, a frame, a pole, lost pixels."""
    depth = contract.observation.depth
    nearest, farthest = pixel_range(depth)
    y = np.arange(depth.rows)[None, :, None] / depth.rows
    x = np.arange(depth.columns)[None, None, :] / depth.columns

    def draw(low: float, high: float) -> Float64:
        return rng.uniform(low, high, (rows, 1, 1))

    horizon, slope = draw(0.2, 0.8), draw(-0.4, 0.4)
    below = y - horizon - slope * (x - 0.5)
    ground = np.where(below > 0, draw(0.02, 0.2) / np.maximum(below, 1e-3), 1.0)
    off_y, off_x = np.abs(y - draw(0.1, 0.9)), np.abs(x - draw(0.1, 0.9))
    outer, width = draw(0.05, 0.6), draw(0.01, 0.1)
    reach = np.maximum(off_y, off_x)
    frame = np.where((reach < outer) & (reach > outer - width), draw(0.05, 1.0), 1.0)
    pole = np.where(np.abs(x - draw(-0.5, 1.5)) < draw(0.01, 0.15), draw(0.05, 1.0), 1.0)
    image = np.minimum(np.minimum(ground, frame), np.minimum(pole, 1.0))
    image = image + draw(0.0, 0.02) * rng.standard_normal(image.shape)
    image[rng.random(image.shape) < draw(0.0, 0.02)] = 1.0
    return np.asarray(nearest + (farthest - nearest) * np.clip(image, 0.0, 1.0))
