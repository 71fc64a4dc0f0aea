"""All checks of a bundle of any policy, in the order of running: static ones, episodes, single steps, recorded rows."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from deploy_kit.bundle.parity import Limit, ParityCheck, ParityComparison
from deploy_kit.bundle.policy_reader import GoldenSequences
from deploy_kit.bundle.policy_runners import PolicyOnnxRunner, row_matrix
from deploy_kit.bundle.policy_tensors import ACTIONS, LOGIT
from deploy_kit.bundle.reader import ONNX_NAME
from deploy_kit.bundle.runners import GATE_TERMS, ArtifactError, Outputs
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.data.reader import FeatureFile
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.progress import Progress
from deploy_kit.verify.artifacts import ARTIFACTS
from deploy_kit.verify.dataset import spread
from deploy_kit.verify.opening import attempt, guarded
from deploy_kit.verify.options import ReplayOptions
from deploy_kit.verify.policy.artifacts import (
    PolicyArtifact,
    PolicyArtifacts,
    open_policy_artifacts,
    policy_provider_check,
)
from deploy_kit.verify.policy.recorded import RecordedEpisodes, recorded_episodes
from deploy_kit.verify.policy.sequences import (
    Episodes,
    Steps,
    at_reset,
    drawn_episodes,
    extreme_steps,
    golden_episodes,
    random_steps,
    run_episodes,
    state_outputs_of,
    steps_of,
)
from deploy_kit.verify.policy.subject import PolicySubject
from deploy_kit.verify.replay import BATCH_SIZES, batches
from deploy_kit.verify.report import Check, FactCheck, NotRun

SEQUENCE_STEPS = 48
SEQUENCES = 4
"""Length and number of the sequences that are drawn."""

_BLOCK = 256


def run_policy_checks(
    subject: PolicySubject,
    samples: FeatureFile | None,
    hints: NetworkHints,
    options: ReplayOptions,
    progress: Callable[[Progress], None],
) -> tuple[list[Check], PolicyArtifacts]:
    """Run all checks but those of live rollouts.

    Args:
        subject: bundle and checkpoint.
        samples: feature file to replay, None for none.
        hints: what the user says of the policy.
        options: which inputs to replay.
        progress: told what is being done.

    Returns:
        The checks with their figures, and what of the bundle could be opened.
    """
    progress(Progress("static checks", 0))
    artifacts, checks = open_policy_artifacts(subject, hints, options.runtimes[0], torchscript=options.torchscript)
    if subject.misfit is not None:
        return [*checks, NotRun("replay", subject.misfit)], artifacts
    stage = _replayed(subject, artifacts, samples, options, progress)
    checks += guarded("replay/run", "replay, carried out", stage)
    return checks, artifacts


def _replayed(
    subject: PolicySubject,
    artifacts: PolicyArtifacts,
    samples: FeatureFile | None,
    options: ReplayOptions,
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    spec, usual, seed = subject.checkpoint.network.spec, subject.usual, options.seed
    golden, problem = attempt(lambda: subject.bundle.golden)
    if golden is None:
        yield FactCheck("golden/stored-outputs", "golden.npz, read by the contract's sizes", 1, (problem or "",))
        yield NotRun("replay/golden", "golden.npz cannot be read")
    else:
        yield stored_golden(subject, golden)
    recorded: RecordedEpisodes | None = None
    if samples is None:
        yield NotRun("replay/heldout/onnx-head", "--no-replay: no feature file was given", "--no-replay")
    else:
        yield _heldout(subject, artifacts, samples, options.max_rows)
        recorded = recorded_episodes(samples, spec, options.max_observations)
        if recorded is not None:
            yield _stored_features(subject, samples, recorded)
    drawn = drawn_episodes(spec, usual, SEQUENCE_STEPS, SEQUENCES, seed)
    episodes = [drawn] if golden is None else [golden_episodes(golden), drawn]
    if recorded is None:
        reason = "--no-replay: no feature file was given"
        if samples is not None:
            reason = f"{samples.path.name} holds no whole observations; collect with --keep-observations"
        switch = "--no-replay" if samples is None else None if options.observations else "--no-observations"
        yield from (NotRun(f"replay/{name}", reason, switch) for name in ("kept", "stored-features"))
    else:
        episodes.append(recorded.episodes)
    steps = [random_steps(spec, usual, options.random_rows, seed), extreme_steps(spec, usual, seed)]
    for item in episodes:
        progress(Progress(f"replay {item.name}", 0))
        yield from _each(subject, artifacts, item.name, partial(_episodes, subject, episodes=item))
        alone = steps_of(subject.reference, item)
        yield from _each(subject, artifacts, alone.name, partial(_steps, subject, steps=alone))
    for chosen in steps:
        progress(Progress(f"replay {chosen.name}", 0))
        yield from _each(subject, artifacts, chosen.name, partial(_steps, subject, steps=chosen))
    if artifacts.onnx is not None:
        yield from _other_runtimes(subject, options, [*episodes], [*steps])


def _each(
    subject: PolicySubject, artifacts: PolicyArtifacts, name: str, run: Callable[[PolicyArtifact], ParityCheck]
) -> Iterator[Check]:
    opened = {artifact.name for artifact in artifacts.observed}
    for missing in ARTIFACTS:
        if missing not in opened:
            switch = artifacts.switched_off.get(missing)
            yield NotRun(f"replay/{name}/{missing}", switch or "not opened: a check above says why", switch)
    yield from map(run, artifacts.observed)


def _other_runtimes(
    subject: PolicySubject, options: ReplayOptions, episodes: list[Episodes], steps: list[Steps]
) -> Iterator[Check]:
    for runtime in options.runtimes[1:]:
        try:
            runner = PolicyOnnxRunner(subject.bundle.read(ONNX_NAME), subject.contract, runtime)
        except ArtifactError as error:
            yield FactCheck(f"onnx/provider@{runtime}", f"loaded by onnxruntime, {runtime}", 1, (str(error),))
            yield NotRun(f"replay@{runtime}", "not opened: the check above says why")
            continue
        yield policy_provider_check(f"onnx/provider@{runtime}", runner)
        artifact = PolicyArtifact(f"onnx@{runtime}", runner, subject.roles)
        yield from (_episodes(subject, artifact, item) for item in episodes)
        yield from (_steps(subject, artifact, item) for item in steps)


def stored_golden(subject: PolicySubject, golden: GoldenSequences) -> ParityCheck:
    """Return the comparison of the outputs in golden.npz with what the checkpoint gives for the same episodes."""
    names = state_outputs_of(subject.contract)
    episodes = golden_episodes(golden)
    start = subject.reference.initial_state(episodes.reset.shape[1])
    expected = run_episodes(subject.reference, episodes, names, start)
    stored: dict[str, Any] = {ACTIONS: golden.actions, FEATURES_TENSOR: golden.features}
    if golden.head_logit is not None and golden.head_terms is not None:
        stored |= {LOGIT: golden.head_logit, GATE_TERMS: golden.head_terms}
    stored |= golden.state
    described = "outputs in golden.npz against the checkpoint, through whole episodes"
    comparison = ParityComparison("golden/stored-outputs", described, tuple(stored), subject.semantics)
    for step, outputs in enumerate(expected):
        comparison.add(_rows(outputs, names), _rows({name: values[step] for name, values in stored.items()}, names))
    return comparison.result(episodes.where, subject.note)


def _episodes(subject: PolicySubject, artifact: PolicyArtifact, episodes: Episodes) -> ParityCheck:
    """Run an artifact through episodes, its own state carried, beside the checkpoint with its own."""
    names = state_outputs_of(subject.contract)
    comparison = ParityComparison(
        f"replay/{episodes.name}/{artifact.name}", episodes.described, artifact.roles, subject.semantics
    )
    start = subject.reference.initial_state(episodes.reset.shape[1])
    state, theirs = start, start
    try:
        for step, reset in enumerate(episodes.reset):
            groups = {name: values[step] for name, values in episodes.groups.items()}
            expected = subject.reference(groups, at_reset(state, reset))
            given = artifact.runner(groups, at_reset(theirs, reset))
            comparison.add(_rows(expected, names), _rows(given, names))
            state = tuple(expected[name] for name in names)
            theirs = tuple(np.asarray(given[name], np.float32) for name in names)
    except ArtifactError as error:
        comparison.fail(str(error))
    return comparison.result(episodes.where, subject.note)


def _steps(subject: PolicySubject, artifact: PolicyArtifact, steps: Steps) -> ParityCheck:
    """Run an artifact on single steps, in batches of several sizes: a batch must not change its rows' outputs."""
    names = state_outputs_of(subject.contract)
    comparison = ParityComparison(
        f"replay/{steps.name}/{artifact.name}", steps.described, artifact.roles, subject.semantics
    )
    try:
        for rows in batches(len(steps), BATCH_SIZES):
            groups = {name: values[rows] for name, values in steps.groups.items()}
            state = tuple(tensor[:, rows] for tensor in steps.state)
            scale = None if steps.row_scale is None else steps.row_scale[rows]
            expected, given = subject.reference(groups, state), artifact.runner(groups, state)
            comparison.add(_rows(expected, names), _rows(given, names), scale)
    except ArtifactError as error:
        comparison.fail(str(error))
    return comparison.result(steps.where, subject.note)


def _stored_features(subject: PolicySubject, samples: FeatureFile, recorded: RecordedEpisodes) -> ParityCheck:
    """Compare the stored features with what the checkpoint makes of the same episodes."""
    episodes, names = recorded.episodes, state_outputs_of(subject.contract)
    described = f"features in {samples.path.name} against the checkpoint"
    comparison = ParityComparison(
        "replay/stored-features", described, (FEATURES_TENSOR,), subject.semantics, Limit.STORED_FEATURES
    )
    where: list[int] = []
    start = subject.reference.initial_state(episodes.reset.shape[1])
    for step, outputs in enumerate(run_episodes(subject.reference, episodes, names, start)):
        valid = recorded.valid[step]
        where += (step * valid.size + np.flatnonzero(valid)).tolist()
        stored = {FEATURES_TENSOR: recorded.features[step][valid]}
        comparison.add({FEATURES_TENSOR: outputs[FEATURES_TENSOR][valid]}, stored)
    return comparison.result(lambda row: episodes.where(where[row]))


def _rows(outputs: Mapping[str, Any], state_outputs: tuple[str, ...]) -> Outputs:
    return {name: row_matrix(values, state=name in state_outputs) for name, values in outputs.items()}


def _heldout(subject: PolicySubject, artifacts: PolicyArtifacts, samples: FeatureFile, max_rows: int | None) -> Check:
    """Replay rows of features through the part features → logit of the graph that ships."""
    heldout = samples.num_heldout > 0
    rows = samples.heldout() if heldout else samples.train
    name = f"replay/{'heldout' if heldout else 'training-rows'}/onnx-head"
    head = subject.checkpoint.network.head
    if subject.contract.head is None or head is None:
        return NotRun(name, "the graph gives no logit, and the file holds nothing else to replay", "no head exported")
    if artifacts.head is None:
        return NotRun(name, "the ONNX graph cannot be cut at its features")
    session: Any = artifacts.head
    chosen = spread(len(rows), max_rows)
    described = f"{'held-out' if heldout else 'training'} rows of {samples.path.name}, features → logit"
    comparison = ParityComparison(name, described, (LOGIT,), subject.semantics)
    features = rows.matrix.load()[chosen]
    network = subject.checkpoint.network
    for block in batches(len(features), (1, 7, _BLOCK)):
        given = torch.from_numpy(np.ascontiguousarray(features[block]))
        with torch.inference_mode():
            expected = {LOGIT: head(given).numpy(), GATE_TERMS: network.head_terms(given).numpy()}
        comparison.add(expected, {LOGIT: session.run(None, {FEATURES_TENSOR: given.numpy()})[0]})
    return comparison.result(lambda row: f"row {int(chosen[row])}", subject.note)
