"""All checks of a bundle against a checkpoint, in the order of running: static ones, replay, flights.

`verify` runs them on a bundle that ships, `export` on the staging folder before it publishes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from deploy_kit.bundle.parity import ParityCheck, ParityComparison
from deploy_kit.bundle.reader import CPP_NAME, HEADER_PROFILES
from deploy_kit.bundle.runners import FEATURE_TERMS, GATE_TERMS, Float32
from deploy_kit.progress import Progress
from deploy_kit.verify.artifacts import Artifacts, open_artifacts
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.dataset import Dataset
from deploy_kit.verify.flight_like import flight_like_samples, near_samples
from deploy_kit.verify.flight_log.causes import affine_cause
from deploy_kit.verify.header_checks import header_not_flown
from deploy_kit.verify.live import LiveTest
from deploy_kit.verify.matrix import by_arithmetic, matrix_checks, of_the_graph
from deploy_kit.verify.opening import attempt, guarded
from deploy_kit.verify.options import LIVE_MODES, ReplayOptions
from deploy_kit.verify.replay import Advance, reference_outputs, replay
from deploy_kit.verify.report import Check, FactCheck, NotRun
from deploy_kit.verify.samples import SampleSet, extreme_samples, golden_samples, random_samples
from deploy_kit.verify.search import search

STORED_COMMAND_TOLERANCE = 1e-5
"""Of the golden commands, relative to a command's scale plus its size; float32 is well within."""


def run_checks(
    subject: BundleAndCheckpoint,
    dataset: Dataset | None,
    live: LiveTest | None,
    options: ReplayOptions,
    progress: Callable[[Progress], None],
) -> tuple[list[Check], Artifacts]:
    """Run all checks.

    Args:
        subject: bundle, checkpoint, vehicle.
        dataset: feature file to replay, None for none.
        live: flights, None for none.
        options: which inputs to replay.
        progress: told what is being done.

    Returns:
        The checks with their figures, and what of the bundle could be opened.

    Raises:
        TaskError: episodes do not end.
    """
    progress(Progress("static checks", 0))
    first = options.runtimes[0]
    artifacts, checks = open_artifacts(subject, options.torchscript, first, options.cpp)
    if subject.misfit is None:
        stage = _replayed_and_flown(options, subject, artifacts, dataset, live, progress)
        checks += guarded("replay/run", "replay and flights, carried out", stage)
    else:
        checks += [NotRun(name, subject.misfit) for name in ("replay", "live")]
    return [by_arithmetic(check, first) if of_the_graph(check) else check for check in checks], artifacts


def _replayed_and_flown(
    options: ReplayOptions,
    subject: BundleAndCheckpoint,
    artifacts: Artifacts,
    dataset: Dataset | None,
    live: LiveTest | None,
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    golden, problem = attempt(lambda: golden_samples(subject.bundle))
    if golden is None:
        yield FactCheck("golden/stored-outputs", "golden.npz, read by the contract's sizes", 1, (problem or "",))
        yield NotRun("replay/golden", "golden.npz cannot be read")
    else:
        yield _stored_golden(subject)
        yield _stored_commands(subject)
    sets = [] if golden is None else [golden]
    if dataset is None:
        for name in (*(f"heldout/{artifact}-head" for artifact in artifacts.heads), "kept", "stored-features"):
            yield NotRun(f"replay/{name}", "--no-replay: no feature file was given", "--no-replay")
    else:
        for name, head in artifacts.heads.items():
            switch = artifacts.switched_off.get(name)
            profile = HEADER_PROFILES.get(name)
            yield from dataset.heldout_checks(subject, name, head, options.max_rows, progress, switch, profile)
        kept = dataset.kept_samples(options.max_observations)
        if kept is None:
            reason = f"{dataset.path.name} holds no whole observations; collect with --keep-observations"
            switch = None if options.observations else "--no-observations"
            yield from (NotRun(f"replay/{name}", reason, switch) for name in ("kept", "stored-features"))
        else:
            yield dataset.stored_features_check(subject, kept)
            sets.append(kept.samples)
    contract, seed, rows = subject.contract, options.seed, max(1, options.random_rows // 2)
    flying = flight_like_samples(contract, rows, seed)
    # The user's own observations, else the bundle's.
    recorded = sets[-1] if sets else flying
    near = near_samples(recorded.observation, contract, rows, seed, recorded.described)
    drawn = [near, flying, random_samples(contract, options.random_rows, seed)]
    every = (*sets, *drawn, extreme_samples(contract, seed))
    for samples in every:
        yield from _replay_set(subject, artifacts, samples, progress)
    if artifacts.onnx is not None:
        yield from matrix_checks(subject, options.runtimes[1:], every, progress)
    start = np.concatenate([samples.observation[: options.random_rows] for samples in (recorded, *drawn)])
    usual = float(reference_outputs(subject.reference, flying.observation)[FEATURE_TERMS].max())
    yield from _searched(subject, artifacts, start, usual, options, progress)
    flown: set[str] = set()
    if live is not None:
        for check in live.run(subject, artifacts.onnx, progress, artifacts.header):
            flown.add(check.name)
            yield check
    if CPP_NAME in subject.bundle.files:
        modes, opened = None if live is None else live.modes, artifacts.header is not None
        yield from header_not_flown("cpp", modes, flown, opened, artifacts.switched_off.get("cpp"))
    for mode in LIVE_MODES:
        if live is None or mode not in live.modes:
            reason = "--no-live" if live is None else "not among the live modes asked for"
            yield NotRun(f"live/{mode}", reason, "--no-live" if live is None else "--live-mode")


def _stored_golden(subject: BundleAndCheckpoint) -> ParityCheck:
    golden = subject.bundle.golden
    stored = {"action": golden.action, "features": golden.features}
    if golden.gate_logit is not None and golden.gate_terms is not None:
        stored |= {"gate_logit": golden.gate_logit, GATE_TERMS: golden.gate_terms}
    comparison = ParityComparison(
        "golden/stored-outputs", "outputs in golden.npz against the checkpoint", tuple(stored), subject.semantics
    )
    comparison.add(reference_outputs(subject.reference, golden.observation), stored)
    return comparison.result(lambda row: f"golden sample {row} ({golden.reason[row]})", subject.note)


def _stored_commands(subject: BundleAndCheckpoint) -> FactCheck:
    """Return whether the stored commands are those that the vehicle flies for the checkpoint's actions."""
    golden, names = subject.bundle.golden, subject.contract.action.names
    expected = reference_outputs(subject.reference, golden.observation)["command"].astype(np.float64)
    scale = np.array(subject.semantics.transform.scale)
    error = np.abs(golden.command - expected)
    # Written so that what is not finite is refused too.
    wrong = ~(error <= STORED_COMMAND_TOLERANCE * (scale + np.abs(expected)))
    problems = []
    for index in np.flatnonzero(wrong.any(axis=0)):
        row = int(np.argmax(wrong[:, index]))
        cause = affine_cause(expected[:, index], golden.command[:, index])
        problems.append(
            f"{names[index]} of golden sample {row} is {golden.command[row, index]:.6g}, the vehicle flies "
            f"{expected[row, index]:.6g}" + (f": {cause}" if cause else "")
        )
    compared = "SI commands in golden.npz against the checkpoint's actions and the vehicle"
    return FactCheck("golden/stored-commands", compared, len(golden), tuple(problems))


def _searched(
    subject: BundleAndCheckpoint,
    artifacts: Artifacts,
    start: Float32,
    usual_terms: float,
    options: ReplayOptions,
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    """Search with the graph that flies, and run the others on the worst that was found."""
    if artifacts.onnx is None:
        yield from (NotRun(f"replay/search/{name}", "the ONNX graph was not opened") for name in artifacts.expected)
        return
    described = f"{options.search_evaluations} inputs of a search for the largest difference, seed {options.seed}"
    comparison = ParityComparison("replay/search/onnx", described, subject.roles, subject.semantics)
    advance = counter(progress, "search", options.search_evaluations)
    found = search(
        start,
        subject.contract,
        subject.reference,
        artifacts.onnx,
        comparison,
        options.search_evaluations,
        options.seed,
        usual_terms,
        advance,
    )
    yield found.check
    if not len(found.worst.observation):
        others = (name for name in artifacts.expected if name != "onnx")
        yield from (NotRun(f"replay/search/{name}", "the search was not run") for name in others)
        return
    yield from _replay_set(subject, artifacts, found.worst, progress, leave_out=("onnx",))


SATURATED = 2.0
"""Limits of int8 on what a search found. All of it drives the quantised layer beyond the range that it was calibrated
on, where int8 saturates: nine searches on the reference policy came to 0.03 to 1.08 of the plain limit, where random
inputs within the calibrated range came to 0.12. What the layer computes is compared bit by bit in `int8/graph`."""


def _replay_set(
    subject: BundleAndCheckpoint,
    artifacts: Artifacts,
    samples: SampleSet,
    progress: Callable[[Progress], None],
    leave_out: tuple[str, ...] = (),
) -> Iterator[Check]:
    reference = reference_outputs(subject.reference, samples.observation)
    opened = {artifact.name for artifact in artifacts.observed}
    for name in artifacts.expected:
        if name not in opened and name not in leave_out:
            reason, switch = "not opened: a check above says why", artifacts.switched_off.get(name)
            yield NotRun(f"replay/{samples.name}/{name}", switch or reason, switch)
    everything = samples, reference
    for artifact in artifacts.observed:
        if artifact.name in leave_out:
            continue
        samples, reference = everything
        if artifact.profile is not None and samples.name == "extreme":
            # Narrow arithmetic ends where the ranges do, and the onboard runner refuses what lies beyond.
            samples = samples.within_ranges(subject.contract)
            reference = reference_outputs(subject.reference, samples.observation)
        if artifact.name == "int8" and samples.name == "search" and samples.row_scale is not None:
            samples = replace(samples, row_scale=SATURATED * samples.row_scale)
        if artifact.truth is not None:
            reference = {**reference, **artifact.truth(samples.observation)}
        described = f"{samples.described}{', one by one and in batches' if samples.recorded else ''}"
        comparison = ParityComparison(
            f"replay/{samples.name}/{artifact.name}", described, artifact.roles, subject.semantics
        )
        total = len(samples.observation) * (2 if samples.recorded else 1)
        advance = counter(progress, f"replay {samples.name}, {artifact.name}", total)
        check = replay(samples, reference, artifact.runner, comparison, advance)
        check = check if artifact.profile is None else replace(check, profile=artifact.profile)
        subject.evidence.add_replay(samples, reference, check)
        yield check


def counter(progress: Callable[[Progress], None], phase: str, total: int) -> Advance:
    """Return a function that adds to a count and reports it as progress."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(Progress(phase, done, total))

    return advance
