"""All checks of a flight's log, and what its picture shows."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.parity import ParityCheck, ParityComparison
from deploy_kit.bundle.reader import HEADER_PROFILES, HEADERS
from deploy_kit.bundle.runners import ArtifactError, Float32, Outputs
from deploy_kit.bundle.variants import VARIANT_ENGINES, VARIANTS
from deploy_kit.flightlog.imported import imported
from deploy_kit.flightlog.reader import FlightLog
from deploy_kit.progress import Progress
from deploy_kit.verify.artifacts import Artifacts
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.dataset import Dataset
from deploy_kit.verify.flight_log.causes import image_cause, state_cause
from deploy_kit.verify.flight_log.distribution import distribution_check
from deploy_kit.verify.flight_log.facts import (
    NAME,
    bundle_check,
    command_check,
    fault_check,
    file_check,
    gate_check,
    graph_flew,
    memory_check,
    motion_check,
    not_logged,
    number,
    timing_check,
)
from deploy_kit.verify.flight_log.history import replay_history
from deploy_kit.verify.flight_log.inputs import Block, blocks
from deploy_kit.verify.opening import guarded
from deploy_kit.verify.report import Check, FactCheck, NotRun

SEEN_TOLERANCE = 1e-6
"""Both sides round the same numbers to float32 once."""

SAMPLE_STEPS = 512
"""Steps that are kept to find the cause of a difference in the network's input."""


def check_flight_log(
    log: FlightLog,
    picture: Path,
    subject: BundleAndCheckpoint,
    artifacts: Artifacts,
    dataset: Dataset | None,
    progress: Callable[[Progress], None],
) -> list[Check]:
    """Run all checks of a log and draw its picture.

    Args:
        log: the log.
        picture: PNG to write.
        subject: bundle, checkpoint, vehicle.
        artifacts: what of the bundle could be opened.
        dataset: feature file, None for none.
        progress: told what is being done.
    """
    problem = _misfit(log, subject)
    if problem is None:
        checks = _checks(log, picture, subject, artifacts, dataset, progress)
        return list(guarded(f"{NAME}/content", "the log's content", checks))
    sizes = FactCheck(f"{NAME}/sizes", "log against bundle", 1, (problem,))
    return [file_check(log), bundle_check(log, subject.bundle), sizes]


def _misfit(log: FlightLog, subject: BundleAndCheckpoint) -> str | None:
    spec, header = subject.contract.observation, log.header
    if subject.misfit is not None:
        return subject.misfit
    if spec.depth.clip_m is None or spec.depth.divisor_m is None:
        return "the contract does not know how metres become the image, so nothing can have flown by it"
    found = header["state_size"], tuple(header["image_shape"]), header["num_actions"]
    wanted = spec.state_size, (spec.depth.rows, spec.depth.columns), len(subject.contract.action.names)
    if found != wanted:
        return f"the log's state, image and actions are {found}, the bundle's {wanted}: another policy flew"
    return None if log.flown else "no step was flown: there is nothing to replay"


def _checks(
    log: FlightLog,
    picture: Path,
    subject: BundleAndCheckpoint,
    artifacts: Artifacts,
    dataset: Dataset | None,
    progress: Callable[[Progress], None],
) -> Iterator[Check]:
    contract, calibration = subject.contract, subject.checkpoint.calibration
    seconds = _seconds(log, number(contract.timing.policy_period_s.value))
    origin = imported(log)
    found = _replay(log, subject, artifacts, progress)
    expected = replay_history(
        log,
        np.array(subject.reference.transform.offset, np.float64),
        int(number(contract.timing.action_latency_steps.value)),
        None if calibration is None or contract.gate is None else calibration.detector,
        contract.gate is not None and contract.output("gate_probability") is not None,
    )
    state = np.concatenate(found.state)
    at = [step.sequence for step in log.flown]
    yield file_check(log)
    yield bundle_check(log, subject.bundle)
    yield fault_check(log)
    yield timing_check(log, contract, found.repeated, found.longest_repeat)
    if "network_input" in origin.lacks:
        yield not_logged("observation", "what the network saw")
    else:
        yield found.seen_check(contract)
    yield from found.parity(graph_flew(log, subject.bundle))
    if "graph_output" in origin.lacks:
        yield not_logged("commands", "the graph's own output, of which commands are made")
    else:
        yield command_check(log, contract, subject.reference.transform)
    yield memory_check(expected, contract.action.names)
    if {"gate_output"} & origin.lacks or {"gate_passed", "gate_event"} <= origin.lacks:
        yield not_logged("gate", "the gate's output and its decisions")
    else:
        yield gate_check(expected, lambda sequence: f"{seconds[sequence]:.2f} s", origin.lacks)
    yield motion_check(state, found.sequences, contract, np.array([seconds[row] for row in found.sequences]))
    terms = [f"{term.name}[{index}]" for term in contract.observation.terms for index in range(term.stop - term.start)]
    size = contract.observation.state_size
    heldout, kept = (None, None) if dataset is None else dataset.flown_inputs(size)
    distribution, distance = distribution_check(
        heldout, kept, np.concatenate(found.features), np.concatenate(found.observed), terms, found.sequences
    )
    yield distribution
    # Imported here: matplotlib takes longer than most checks, and few runs have a log.
    from deploy_kit.verify.flight_log.picture import draw_flight_log

    times = np.array([seconds[sequence] for sequence in at])
    draw_flight_log(picture, log, contract, times, distance if len(found.sequences) == len(at) else None)


def _seconds(log: FlightLog, period: float) -> dict[int, float]:
    """Return the time of each record: as given, else by the steps before it."""
    steps = log.steps
    given = [step.times[0] for step in steps]
    if steps and np.isfinite(given).all():
        return {step.sequence: time - given[0] for step, time in zip(steps, given, strict=True)}
    return {step.sequence: index * period for index, step in enumerate(steps)}


@dataclass
class _Replay:
    """What going through a log's inputs once gave."""

    subject: BundleAndCheckpoint
    log: FlightLog
    recorded: ParityComparison
    by_input: ParityComparison
    artifacts: dict[str, ParityComparison]
    not_opened: dict[str, str | None]
    profiles: dict[str, str | None]
    flown_profile: str | None
    state: list[npt.NDArray[np.float64]] = field(default_factory=list)
    observed: list[Float32] = field(default_factory=list)
    features: list[Float32] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    wrong: list[tuple[Float32, Float32]] = field(default_factory=list)
    wrong_first: int | None = None
    wrong_count: int = 0
    repeated: int = 0
    longest_repeat: int = 0

    def seen_check(self, contract: Contract) -> FactCheck:
        """Return whether the network saw what the contract makes of the raw inputs."""
        problems = []
        if self.wrong:
            expected, found = (np.concatenate(parts) for parts in zip(*self.wrong, strict=True))
            problems = [
                f"{self.wrong_count} steps differ, the first at record {self.wrong_first}; {line}"
                for line in _input_problems(contract, expected, found)
            ]
        return FactCheck(
            f"{NAME}/observation",
            "what the network saw against the contract's of the raw inputs",
            len(self.sequences),
            tuple(problems),
        )

    def parity(self, same_graph: bool) -> Iterator[Check]:
        """Yield the recorded outputs against the checkpoint's, then the artifacts' on the same inputs."""
        where = self._where
        recorded = self.recorded.result(where)
        others = {
            name: replace(comparison.result(where), profile=self.profiles[name])
            for name, comparison in self.artifacts.items()
        }
        noted = self.recorded.result(where, self._note(recorded, others, same_graph))
        yield replace(noted, profile=self.flown_profile)
        yield from others.values()
        for name, switch in self.not_opened.items():
            yield NotRun(f"{NAME}/replay/{name}", switch or "not opened: a check above says why", switch)

    def _note(self, recorded: ParityCheck, others: dict[str, ParityCheck], same_graph: bool) -> str | None:
        """Say why the recorded outputs differ from the checkpoint's, if they do clearly."""
        if _worst(recorded) <= 1.0:
            return None
        if self.flown_profile is not None:
            return f"narrow arithmetic flew ({self.log.header['engine']}): judged by the profile {self.flown_profile}"
        if _worst(self.by_input.result(self._where)) <= 1.0:
            return (
                "the outputs are the checkpoint's for what the network saw: the network's input was made otherwise "
                f"than the contract says, see {NAME}/observation"
            )
        if imported(self.log).source is not None:
            return (
                "the log was imported: inputs that are mapped in another unit, axes, order or clock give other outputs "
                f"too, see {NAME}/motion; else the bundle that flew is another one than was named"
            )
        graph = others.get("onnx")
        if same_graph and graph is not None and _worst(graph) <= 1.0:
            return (
                "this bundle's own graph gives the checkpoint's outputs here, and did not on the computer that flew: "
                "look at its execution provider and onnxruntime version"
            )
        if same_graph:
            return "the graph that flew is this bundle's, and it is not the checkpoint's: a weight or operator differs"
        return "another graph flew than this bundle's"

    def _where(self, row: int) -> str:
        return f"record {self.sequences[row]}" if row < len(self.sequences) else f"row {row}"


def _worst(check: ParityCheck) -> float:
    from deploy_kit.bundle.parity import share_of_tolerance
    from deploy_kit.bundle.thresholds import Thresholds

    shares = [share_of_tolerance(output, Thresholds().parity) for output in check.outputs]
    return max((share for share in shares if share is not None), default=0.0)


def _flown_profile(log: FlightLog, subject: BundleAndCheckpoint) -> str | None:
    """Return the profile of what flew: a narrow header or variant, if the log says so and the bundle has it."""
    engine = log.header.get("engine")
    if not isinstance(engine, str):
        return None
    variant = VARIANT_ENGINES.get(engine)
    file = HEADERS.get(engine) if variant is None else VARIANTS[variant]
    return None if file not in subject.bundle.files else HEADER_PROFILES.get(engine, variant)


def _replay(
    log: FlightLog, subject: BundleAndCheckpoint, artifacts: Artifacts, progress: Callable[[Progress], None]
) -> _Replay:
    semantics = subject.semantics
    roles = _recorded_roles(subject.roles, imported(log).lacks)
    opened = {artifact.name: artifact for artifact in artifacts.observed}
    found = _Replay(
        subject,
        log,
        ParityComparison(f"{NAME}/outputs", "recorded outputs against the checkpoint's", roles, semantics),
        ParityComparison(f"{NAME}/by-input", "the same for what the network saw", roles, semantics),
        {
            name: ParityComparison(
                f"{NAME}/replay/{name}",
                "the flight's inputs through checkpoint and artifact",
                artifact.roles,
                semantics,
            )
            for name, artifact in opened.items()
        },
        {name: artifacts.switched_off.get(name) for name in artifacts.expected if name not in opened},
        {name: artifact.profile for name, artifact in opened.items()},
        _flown_profile(log, subject),
    )
    last, run, done, total = None, 0, 0, len(log.flown)
    for block in blocks(log, subject.contract):
        reference = subject.reference(block.observation)
        recorded = _recorded(block, roles, subject.roles)
        found.recorded.add(reference, recorded)
        found.by_input.add(subject.reference(block.seen), recorded)
        for name, comparison in found.artifacts.items():
            try:
                truth = opened[name].truth
                expected = reference if truth is None else {**reference, **truth(block.observation)}
                comparison.add(expected, opened[name].runner(block.observation))
            except ArtifactError as error:
                comparison.fail(str(error))
        _note_inputs(found, block)
        found.features.append(reference["features"])
        for image in block.depth:
            same = last is not None and last.dtype == image.dtype and np.array_equal(last, image, equal_nan=True)
            run = run + 1 if same else 0
            found.repeated += same
            found.longest_repeat = max(found.longest_repeat, run)
            last = image
        done += len(block.steps)
        progress(Progress("replay the flight", done, total))
    return found


def _recorded_roles(roles: tuple[str, ...], lacks: frozenset[str]) -> tuple[str, ...]:
    """Return the outputs that a log holds: for the graph's first output, where it lacks that, the commands."""
    held = [role for role in roles if not (role.startswith("gate") and "gate_output" in lacks)]
    return tuple("command" if "graph_output" in lacks and role == "action" else role for role in held)


def _recorded(block: Block, roles: Iterable[str], exported: Iterable[str]) -> Outputs:
    """Return what the log says that the graph gave, by role."""
    first = np.stack([step.first for step in block.steps])
    command = np.stack([step.command for step in block.steps]).astype(np.float32)
    gate = np.array([[step.gate] for step in block.steps], np.float32)
    given = {role: first for role in exported if not role.startswith("gate")}
    return {role: gate if role.startswith("gate") else given.get(role, command) for role in roles}


def _note_inputs(found: _Replay, block: Block) -> None:
    size = block.state.shape[1]
    found.state.append(block.state)
    found.observed.append(block.observation[:, :size])
    found.sequences += [step.sequence for step in block.steps]
    error = np.abs(block.seen - block.observation)
    wrong = ~(error <= SEEN_TOLERANCE * (1 + np.abs(block.observation))).all(axis=1)
    if wrong.any():
        rows = np.flatnonzero(wrong)
        found.wrong_count += rows.size
        if found.wrong_first is None:
            found.wrong_first = block.steps[int(rows[0])].sequence
        if sum(len(expected) for expected, _ in found.wrong) < SAMPLE_STEPS:
            found.wrong.append((block.observation[rows], block.seen[rows]))


def _input_problems(contract: Contract, expected: Float32, found: Float32) -> list[str]:
    """Return one line a term, or the image, that differs."""
    spec = contract.observation
    parts = [(term.name, term.start, term.stop) for term in spec.terms] + [("depth", spec.state_size, spec.size)]
    problems = []
    for name, start, stop in parts:
        wanted, seen = expected[:, start:stop], found[:, start:stop]
        wrong = ~(np.abs(seen - wanted) <= SEEN_TOLERANCE * (1 + np.abs(wanted)))
        if not wrong.any():
            continue
        row, column = np.argwhere(wrong)[0]
        shape = (-1, spec.depth.rows, spec.depth.columns)
        cause = (
            image_cause(wanted.reshape(shape), seen.reshape(shape)) if name == "depth" else state_cause(wanted, seen)
        )
        problems.append(
            f"{name}[{column}] was {seen[row, column]:.6g} and should have been {wanted[row, column]:.6g}"
            + (f": {cause}" if cause else "")
        )
    return problems
