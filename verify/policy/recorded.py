"""Recorded observations of a feature file as episodes, each from its first step, and the features that were stored."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.runners import Float32
from deploy_kit.data.reader import FeatureFile
from deploy_kit.data.rows import Matrix
from deploy_kit.errors import DatasetError
from deploy_kit.policy.protocol import PolicySpec
from deploy_kit.verify.policy.sequences import Episodes


@dataclass(frozen=True)
class RecordedEpisodes:
    """Recorded episodes side by side; those that end sooner go on with their last observation.

    Attributes:
        episodes: what to run.
        valid: (T, N), which steps were recorded.
        features: (T, N, F) that were stored, where steps are valid.
    """

    episodes: Episodes
    valid: npt.NDArray[np.bool_]
    features: Float32


def recorded_episodes(samples: FeatureFile, spec: PolicySpec, most: int | None) -> RecordedEpisodes | None:
    """Return the kept observations of a file as episodes, None if there are none.

    A policy without memory takes each observation as an episode of one step.

    Args:
        samples: the file.
        spec: the policy's groups.
        most: most observations, in whole episodes but for the last one; None for all.

    Raises:
        DatasetError: they have another size, or those of a recurrent policy are no whole episodes.
    """
    kept = samples.observations
    if kept is None or not len(kept):
        return None
    width = sum(math.prod(group.shape) for group in spec.groups)
    if kept.matrix.shape[1] != width:
        raise DatasetError(
            f"{samples.path}: observations have {kept.matrix.shape[1]} numbers, the policy takes {width}"
        )
    order = np.arange(len(kept))
    step = np.zeros(len(kept), np.int64)
    episode = order
    if spec.state:
        if kept.rows.episode_id is None or kept.rows.step is None:
            raise DatasetError(f"{samples.path} does not say which episodes its observations are of; collect it again")
        order = np.lexsort((kept.rows.step, kept.rows.episode_id))
        episode = np.unique(kept.rows.episode_id[order], return_inverse=True)[1]
        step = kept.rows.step[order].astype(np.int64)
    first = np.flatnonzero(np.diff(episode, prepend=-1))
    whole = step == np.arange(len(step)) - first[episode]
    if 2 * int(whole.sum()) < len(whole):
        raise DatasetError(
            f"{samples.path}: most kept observations are no episodes from their first step on, as a policy with memory "
            "needs them; collect the file again"
        )
    order, step = order[whole][:most], step[whole][:most]
    episode = np.unique(episode[whole][:most], return_inverse=True)[1]
    return _side_by_side(samples, spec, order, episode, step)


def _side_by_side(
    samples: FeatureFile,
    spec: PolicySpec,
    order: npt.NDArray[np.int64],
    episode: npt.NDArray[np.int64],
    step: npt.NDArray[np.int64],
) -> RecordedEpisodes:
    kept = samples.observations
    assert kept is not None
    observation, features = (_rows(matrix, order) for matrix in (kept.matrix, kept.rows.matrix))
    steps, count = int(step.max()) + 1, int(episode.max()) + 1
    source = np.zeros((steps, count), np.int64)
    valid = np.zeros((steps, count), np.bool_)
    source[step, episode], valid[step, episode] = np.arange(len(order)), True
    for later in range(1, steps):
        source[later] = np.where(valid[later], source[later], source[later - 1])
    groups, start = {}, 0
    for group in spec.groups:
        stop = start + math.prod(group.shape)
        groups[group.name] = observation[source, start:stop].reshape(steps, count, *group.shape)
        start = stop
    reset = np.zeros((steps, count), np.bool_)
    reset[0] = True
    described = f"{len(order)} recorded observations of {samples.path.name}, in {count} episodes"
    return RecordedEpisodes(Episodes("kept", described, groups, reset), valid, features[source])


def _rows(matrix: Matrix, chosen: npt.NDArray[np.int64]) -> Float32:
    """Return chosen rows in this order, whatever the file's."""
    back = np.argsort(np.argsort(chosen))
    loaded: Float32 = Matrix(matrix.path, matrix.dataset, matrix.index[np.sort(chosen)]).load()[back]
    return loaded
