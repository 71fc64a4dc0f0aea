"""Flight statistics over the first episode of each environment.

Counting first episodes alone keeps the statistics unbiased: episodes that end early, by a crash, would otherwise be
counted more often than long ones.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from deploy_kit.flight.rollout import StepRecord

BOOTSTRAP_SAMPLES = 300


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval.

    Attributes:
        mean: point estimate.
        ci95: lower and upper bound.
    """

    mean: float
    ci95: tuple[float, float]


def mean_estimate(values: npt.NDArray[np.floating]) -> Estimate:
    """Return the mean of independent values (n,) with the interval of Student's t; it is infinite for one value."""
    mean = float(values.mean())
    if values.size < 2:
        return Estimate(mean, (-float("inf"), float("inf")))
    half = float(stdtrit(values.size - 1, 0.975) * values.std(ddof=1) / np.sqrt(values.size))
    return Estimate(mean, (mean - half, mean + half))


def rate_estimate(successes: int, trials: int) -> Estimate:
    """Return a proportion with Wilson's score interval, which stays sensible at 0 and 1 (Wilson, 1927)."""
    z2 = 1.96**2
    rate = successes / trials
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = 1.96 * np.sqrt(rate * (1 - rate) / trials + z2 / (4 * trials**2)) / (1 + z2 / trials)
    return Estimate(rate, (max(0.0, float(centre - half)), min(1.0, float(centre + half))))


def bootstrap_estimate(
    statistic: Callable[[npt.NDArray[np.int64]], float | None], clusters: int, seed: int
) -> Estimate | None:
    """Return a statistic with the percentile interval of a bootstrap over whole clusters (episodes).

    Args:
        statistic: maps cluster indices (with repetition) to a value, None where it is undefined.
        clusters: how many clusters there are.
        seed: seed of the resampling.

    Returns:
        None where the statistic is undefined on the full sample.
    """
    value = statistic(np.arange(clusters))
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    draws = [statistic(rng.integers(0, clusters, clusters)) for _ in range(BOOTSTRAP_SAMPLES)]
    defined = [draw for draw in draws if draw is not None]
    low, high = np.quantile(defined, [0.025, 0.975])
    return Estimate(value, (float(low), float(high)))


@dataclass(frozen=True)
class FlightStatistics:
    """What a set of first episodes adds up to.

    Attributes:
        episodes: number of episodes.
        env_steps: number of environment steps in them.
        gates_per_episode: gates passed.
        crash_rate: share of episodes that ended otherwise than by their time.
        mean_speed: mean over an episode's steps, m/s; None if the environment does not report it.
        gate_auroc: how well the gate logit ranks passing steps above others, interval by bootstrap over episodes;
            None without a gate head, or if all labels are equal.
    """

    episodes: int
    env_steps: int
    gates_per_episode: Estimate
    crash_rate: Estimate
    mean_speed: Estimate | None
    gate_auroc: Estimate | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class GateScores:
    """What the gate head gave at each step of whole episodes, one after another.

    Attributes:
        logit: (n,).
        label: (n,) whether the step passed a gate.
        episode: (n,) number of the episode, ascending.
    """

    logit: npt.NDArray[np.float32]
    label: npt.NDArray[np.bool_]
    episode: npt.NDArray[np.int64]


_PER_EPISODE = ("alive", "crashed", "gates", "length", "_speed_sum")
_PER_STEP = ("_logits", "_labels", "_envs")
"""What `FirstEpisodes` keeps an entry of for each episode, and for each step."""


class FirstEpisodes:
    """Collects the first episode of each environment from a rollout.

    Args:
        num_envs: number of environments.

    Attributes:
        num_envs: as given.
        alive: (N,) whether the episode goes on.
        crashed: (N,) whether it ended otherwise than by its time.
        gates: (N,) gates passed.
        length: (N,) steps.
        track_id: (N,) identity of the track that it began on, None if the environment does not tell.
    """

    def __init__(self, num_envs: int) -> None:
        self.num_envs = num_envs
        self.alive = np.ones(num_envs, dtype=bool)
        self.crashed = np.zeros(num_envs, dtype=bool)
        self.gates = np.zeros(num_envs, dtype=np.int64)
        self.length = np.zeros(num_envs, dtype=np.int64)
        self.track_id: npt.NDArray[np.int64] | None = None
        self._speed_sum = np.zeros(num_envs)
        self._has_speed = True
        self._logits: list[npt.NDArray[np.float32]] = []
        self._labels: list[npt.NDArray[np.bool_]] = []
        self._envs: list[npt.NDArray[np.int64]] = []

    @classmethod
    def joined(cls, parts: Sequence["FirstEpisodes"]) -> "FirstEpisodes":
        """Return the episodes of several rollouts as those of one, environments numbered on."""
        if len(parts) == 1:
            return parts[0]
        whole = cls(sum(part.num_envs for part in parts))
        for name in _PER_EPISODE:
            setattr(whole, name, np.concatenate([getattr(part, name) for part in parts]))
        tracks = [part.track_id for part in parts if part.track_id is not None]
        whole.track_id = np.concatenate(tracks) if len(tracks) == len(parts) else None
        whole._has_speed = all(part._has_speed for part in parts)
        first = 0
        for part in parts:
            whole._logits += part._logits
            whole._labels += part._labels
            whole._envs += [rows + first for rows in part._envs]
            first += part.num_envs
        return whole

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return everything as arrays, for another process."""
        arrays: dict[str, npt.NDArray[Any]] = {name: getattr(self, name) for name in _PER_EPISODE}
        if self.track_id is not None:
            arrays["track_id"] = self.track_id
        if self._has_speed:
            arrays["_has_speed"] = np.ones(1, np.bool_)
        if self._logits:
            arrays |= {name: np.concatenate(getattr(self, name)) for name in _PER_STEP}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "FirstEpisodes":
        """Return the episodes that `to_arrays` was called on."""
        whole = cls(len(arrays["alive"]))
        for name in _PER_EPISODE:
            setattr(whole, name, arrays[name])
        whole.track_id = arrays.get("track_id")
        whole._has_speed = "_has_speed" in arrays
        if "_logits" in arrays:
            for name in _PER_STEP:
                setattr(whole, name, [arrays[name]])
        return whole

    @property
    def complete(self) -> bool:
        """Whether every environment has finished its first episode."""
        return not self.alive.any()

    @property
    def mean_speed(self) -> npt.NDArray[np.float64] | None:
        """Mean speed of each episode over its steps, (N,), m/s; None if the environment does not report it."""
        return self._speed_sum / np.maximum(self.length, 1) if self._has_speed else None

    def add(self, record: StepRecord) -> None:
        """Take in one step of all environments."""
        rows = np.flatnonzero(self.alive)
        label = record.label.cpu().numpy()
        done = record.done.cpu().numpy()
        time_out = record.time_out.cpu().numpy()
        if "track_id" in record.extras and not self.length.any():
            self.track_id = record.extras["track_id"].cpu().numpy().astype(np.int64)
        self.length[rows] += 1
        self.gates[rows] += label[rows]
        if "speed" in record.extras:
            self._speed_sum[rows] += record.extras["speed"].cpu().numpy()[rows]
        else:
            self._has_speed = False
        if record.output.gate_logit is not None:
            self._logits.append(record.output.gate_logit[:, 0].cpu().numpy()[rows])
            self._labels.append(label[rows])
            self._envs.append(rows)
        self.crashed[rows] = (done & ~time_out)[rows]
        self.alive[rows] = ~done[rows]

    def statistics(self, seed: int = 0) -> FlightStatistics:
        """Return the statistics of the episodes so far; unfinished ones count as they stand."""
        return FlightStatistics(
            episodes=self.num_envs,
            env_steps=int(self.length.sum()),
            gates_per_episode=mean_estimate(self.gates.astype(np.float64)),
            crash_rate=rate_estimate(int(self.crashed.sum()), self.num_envs),
            mean_speed=None if self.mean_speed is None else mean_estimate(self.mean_speed),
            gate_auroc=self._gate_auroc(seed),
        )

    def gate_scores(self) -> GateScores | None:
        """Return what the gate head gave in the episodes, episode by episode; None without a gate head."""
        if not self._logits:
            return None
        env = np.concatenate(self._envs)
        order = np.argsort(env, kind="stable")
        return GateScores(np.concatenate(self._logits)[order], np.concatenate(self._labels)[order], env[order])

    def _gate_auroc(self, seed: int) -> Estimate | None:
        scores = self.gate_scores()
        if scores is None:
            return None
        env, label = scores.episode, scores.label
        values, place = np.unique(scores.logit, return_inverse=True)

        def statistic(episodes: npt.NDArray[np.int64]) -> float | None:
            # Mann and Whitney's statistic over rows weighted by how often their episode was drawn: the rows are sorted
            # once instead of in each of hundreds of draws.
            weight = np.bincount(episodes, minlength=self.num_envs)[env]
            positive = np.bincount(place, weight * label, len(values))
            negative = np.bincount(place, weight * ~label, len(values))
            pairs = positive.sum() * negative.sum()
            below = np.cumsum(negative) - 0.5 * negative
            return float((positive * below).sum() / pairs) if pairs else None

        return bootstrap_estimate(statistic, self.num_envs, seed)
