"""Inputs that artifacts are replayed on: golden, random, extreme."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.reader import Bundle
from deploy_kit.bundle.sampling_range import pixel_range, term_range

Float32 = npt.NDArray[np.float32]

HUGE: tuple[float, ...] = (1e3, 1e4, 1e6)
"""Magnitudes far outside the contract's ranges."""

DENORMAL = 1e-40
"""Below the smallest normal float32, 1.2e-38: flushing it to zero must not show."""


@dataclass(frozen=True)
class SampleSet:
    """Flat observations to replay.

    Attributes:
        name: name of the set.
        described: what it is, in words.
        observation: (n, 6928) float32.
        where: puts a row index into words.
        row_scale: (n, 1) what one unit of output is in each row, None for 1. Rounding errors grow with the input, so
            an input k times beyond the contract's ranges is allowed k times the error.
        recorded: whether the rows are what flew, and are run row by row too.
    """

    name: str
    described: str
    observation: Float32
    where: Callable[[int], str]
    row_scale: npt.NDArray[np.floating] | None = None
    recorded: bool = False

    def within_ranges(self, contract: Contract) -> "SampleSet":
        """Return the rows in which every number is one that the contract's ranges allow."""
        low, high = state_range(contract)
        nearest, farthest = pixel_range(contract.observation.depth)
        state, image = np.split(self.observation, [contract.observation.state_size], axis=1)
        # Ranges are stored as float64; their float32 forms may lie just outside.
        inside = (state >= low.astype(np.float32)) & (state <= high.astype(np.float32))
        rows = np.flatnonzero(inside.all(axis=1) & (image >= nearest).all(axis=1) & (image <= farthest).all(axis=1))
        where = self.where
        return replace(
            self,
            described=f"{self.described}; those within the contract's ranges",
            observation=self.observation[rows],
            row_scale=None if self.row_scale is None else self.row_scale[rows],
            where=lambda row: where(int(rows[row])),
        )


def golden_samples(bundle: Bundle) -> SampleSet:
    """Return the bundle's golden samples."""
    golden = bundle.golden
    return SampleSet(
        "golden",
        f"{golden.source} golden samples",
        golden.observation,
        lambda row: f"golden sample {row} ({golden.reason[row]})",
        recorded=True,
    )


def random_samples(contract: Contract, rows: int, seed: int) -> SampleSet:
    """Return observations drawn within the contract's ranges: uniform states, images of varied light, slope, noise.

    Args:
        contract: gives the ranges.
        rows: how many.
        seed: seed of the draw.
    """
    rng = np.random.default_rng(seed)
    low, high = state_range(contract)
    depth = contract.observation.depth
    state = rng.uniform(low, high, (rows, low.size))
    y, x = np.linspace(-1, 1, depth.rows)[:, None], np.linspace(-1, 1, depth.columns)[None, :]
    base, slope_x, slope_y, noise = rng.uniform((0, -1, -1, 0), (1, 1, 1, 0.5), (rows, 4)).T[..., None, None]
    image = base + slope_x * x + slope_y * y + noise * rng.standard_normal((rows, depth.rows, depth.columns))
    nearest, farthest = pixel_range(depth)
    image = nearest + (farthest - nearest) * np.clip(image, 0.0, 1.0)
    return SampleSet(
        "random",
        f"random inputs within the contract's ranges, seed {seed}",
        np.concatenate((state, image.reshape(rows, -1)), axis=1).astype(np.float32),
        lambda row: f"random input {row}",
    )


def extreme_samples(contract: Contract, seed: int) -> SampleSet:
    """Return the corners: constants, saturated states, striped images, huge values, denormals.

    Args:
        contract: gives sizes and ranges.
        seed: seed of the signs of the huge values.
    """
    low, high = state_range(contract)
    spec, depth = contract.observation, contract.observation.depth
    rng = np.random.default_rng(seed)
    nearest, farthest = pixel_range(depth)
    middle = np.full((depth.rows, depth.columns), 0.5 * (nearest + farthest))
    named: list[tuple[str, npt.NDArray[np.float64]]] = []

    def add(name: str, state: npt.ArrayLike, image: npt.ArrayLike) -> None:
        row = np.empty(spec.size)
        row[: spec.state_size] = state
        row[spec.state_size :] = np.broadcast_to(image, middle.shape).ravel()
        named.append((name, row))

    for value in (0.0, -0.0, 1.0, -1.0, DENORMAL, -DENORMAL):
        add(f"all {value:g}", value, value)
    for state_name, state in (("lowest", low), ("highest", high)):
        for image_name, value in (("nearest", nearest), ("farthest", farthest)):
            add(f"{state_name} state, {image_name} depth", state, value)
    for index in range(spec.state_size):
        for name, bound in (("low", low), ("high", high)):
            add(f"state[{index}] {name}, others 0", np.where(np.arange(spec.state_size) == index, bound, 0.0), middle)
    for axis, count in enumerate(middle.shape):
        for index in range(count):
            image = middle.copy()
            image[(index, slice(None)) if axis == 0 else (slice(None), index)] = farthest
            add(f"depth {('row', 'column')[axis]} {index} farthest", 0.0, image)
    for scale in HUGE:
        for name, sign in (("", 1.0), ("-", -1.0)):
            add(f"all {name}{scale:g}", sign * scale, sign * scale)
        add(f"state ±{scale:g}", scale * rng.choice([-1.0, 1.0], spec.state_size), middle)
        add(f"depth ±{scale:g}", 0.0, scale * rng.choice([-1.0, 1.0], middle.shape))
    observation = np.stack([row for _, row in named]).astype(np.float32)
    return SampleSet(
        "extreme",
        "constants, saturated states, stripes, values to 1e6, denormals",
        observation,
        lambda row: named[row][0],
        _beyond_range(observation, contract),
    )


def state_range(contract: Contract) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the lowest and highest expected state (16,)."""
    low, high = zip(*map(term_range, contract.observation.terms), strict=True)
    return np.concatenate(low), np.concatenate(high)


def _beyond_range(observation: Float32, contract: Contract) -> Float32:
    """Return by which factor each row exceeds the contract's ranges, at least 1, as (n, 1)."""
    low, high = state_range(contract)
    depth = contract.observation.depth
    usual = np.full(contract.observation.size, max(map(abs, pixel_range(depth))))
    usual[: low.size] = np.maximum(np.abs(low), np.abs(high))
    usual = np.maximum(usual, np.finfo(np.float32).tiny)
    factor: Float32 = np.maximum(1.0, np.abs(observation) / usual).max(axis=1, keepdims=True).astype(np.float32)
    return factor
