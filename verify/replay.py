"""Replay: the same rows through the checkpoint and through an artifact."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, repeat

import numpy as np

from deploy_kit.bundle.parity import ParityCheck, ParityComparison
from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs, Reference, Runner
from deploy_kit.verify.samples import SampleSet

BATCH_SIZES: tuple[int, ...] = (1, 2, 3, 7, 32, 128)
"""Observations are replayed in batches of these sizes, in turn: a batch must not change its rows' outputs."""

FEATURE_BATCH_SIZES: tuple[int, ...] = (1, 7, 8192)
"""The same for rows of features."""

Advance = Callable[[int], None]


def replay(
    samples: SampleSet, reference: Outputs, runner: Runner, comparison: ParityComparison, advance: Advance
) -> ParityCheck:
    """Run an artifact on a sample set and compare; recorded rows one by one, as in flight, and then in batches.

    Args:
        samples: the rows.
        reference: what the checkpoint gives for them.
        runner: the artifact.
        comparison: a fresh accumulator.
        advance: told the number of rows after each batch.
    """
    count = len(samples.observation)
    passes = [(1,), BATCH_SIZES] if samples.recorded else [BATCH_SIZES]
    try:
        for rows in (rows for sizes in passes for rows in batches(count, sizes)):
            candidate = runner(samples.observation[rows])
            scale = None if samples.row_scale is None else samples.row_scale[rows]
            comparison.add({role: values[rows] for role, values in reference.items()}, candidate, scale)
            advance(rows.stop - rows.start)
    except ArtifactError as error:
        comparison.fail(str(error))
    if not samples.recorded:
        return comparison.result(samples.where)
    return comparison.result(lambda row: f"{samples.where(row % count)}{', in a batch' if row >= count else ''}")


def replay_features(
    blocks: Iterable[Float32], reference: Reference, runner: Runner, comparison: ParityComparison, advance: Advance
) -> None:
    """Run the sub-graph features → outputs on rows of features and compare; the caller takes the result.

    Args:
        blocks: features (n, 192) each.
        reference: the checkpoint.
        runner: the sub-graph.
        comparison: a fresh accumulator.
        advance: told the number of rows after each batch.
    """
    try:
        for block in blocks:
            for rows in batches(len(block), FEATURE_BATCH_SIZES):
                features = block[rows]
                comparison.add(reference.heads(features), runner(features))
                advance(len(features))
    except ArtifactError as error:
        comparison.fail(str(error))


def reference_outputs(reference: Reference, observation: Float32) -> Outputs:
    """Return the checkpoint's outputs for many observations, computed in blocks."""
    parts = [reference(observation[rows]) for rows in batches(len(observation), (256,))]
    return {role: np.concatenate([part[role] for part in parts]) for role in parts[0]}


def batches(rows: int, sizes: tuple[int, ...]) -> Iterator[slice]:
    """Yield slices that tile `rows`, of the given sizes in turn and of the last one from then on."""
    start = 0
    for size in chain(sizes, repeat(sizes[-1])):
        if start >= rows:
            return
        yield slice(start, min(start + size, rows))
        start += size
