"""The C++ header in flight: each drone has a policy of its own, with the memory that it would have on board.

Samples are replayed in the header's network, one row at a time, and see nothing of its memory: the command that acts,
the detector, the guards. Here `Policy::step` computes every step of whole episodes from raw quantities, without the
command that acts, as in the onboard runner. Where nothing tells what the observations measure, its network alone flies.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.parity import OutputSemantics, ParityCheck, ParityComparison
from deploy_kit.bundle.runners import ArtifactError, Outputs
from deploy_kit.cpp.library import Steps, fault_name
from deploy_kit.flight.rollout import StepRecord
from deploy_kit.onboard.detector import DetectorRule, GateDetector, Slope
from deploy_kit.policy.network import PolicyOutput
from deploy_kit.policy.run.env_file import same_number
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS, ActionTransform
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.bench import Bench, bench_for
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.contract_flight import MAX_REFUSED
from deploy_kit.verify.header_checks import header_checks
from deploy_kit.verify.integrator import Integrator
from deploy_kit.verify.report import FactCheck
from deploy_kit.verify.rollouts import RowNames, ShadowComparison
from deploy_kit.verify.structure.sandboxed_library import SandboxedLibrary

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

SHADOW, STEPS, _ = header_checks("cpp")

_MOST_NAMED = 3


@dataclass(frozen=True)
class HeaderFigures:
    """What the header gave beside flights that PyTorch flew.

    Attributes:
        shadow: its outputs with PyTorch's.
        steps: that it was given one after another; 0 where only its network ran.
        faults: how often it refused a step, by the number of its `Fault`.
        passages: that it announced.
        wrong: steps at which its detector said something else than the contract's rule, in words.
    """

    shadow: ParityCheck
    steps: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    passages: int = 0
    wrong: tuple[str, ...] = ()


class HeaderFlights:
    """Flies the header of one bundle, in the shadow of another driver and in its place.

    Args:
        subject: bundle, checkpoint, vehicle.
        task: what flies.
        library: the header, built.
        share: the words that name the share of the flights, empty for all of them.
    """

    def __init__(self, subject: BundleAndCheckpoint, task: str, library: SandboxedLibrary, share: str = "") -> None:
        self._subject, self._task, self.library, self._share = subject, task, library, share
        self._shadow: HeaderShadow | ShadowComparison | None = None

    @property
    def has_memory(self) -> bool:
        """Whether it flies from raw quantities, step by step; else its network flies alone."""
        return self._subject.named.wanted or self._task == TASK_ID

    def begin_shadow(self, env: "VecEnv", part: int) -> "HeaderShadow | ShadowComparison":
        """Return what watches a rollout that another driver flies."""
        if self.has_memory:
            stepped = self._shadow if isinstance(self._shadow, HeaderShadow) else HeaderShadow(self)
            stepped.begin(env, part)
            self._shadow = stepped
            return stepped
        alone = self._shadow if isinstance(self._shadow, ShadowComparison) else self._network_alone()
        alone.begin(env.num_envs, part)
        self._shadow = alone
        return alone

    def _network_alone(self) -> ShadowComparison:
        compared = "PyTorch drives, the C++ header's network sees the same observations"
        comparison = ParityComparison(SHADOW, compared, self.roles, self._subject.semantics)
        return ShadowComparison(self.library.rows, self._subject.reference, comparison, self._share)

    @property
    def roles(self) -> tuple[str, ...]:
        """Outputs to compare."""
        return ("command",) if self._subject.contract.gate is None else ("command", "gate_logit")

    def fleet(self, env: "VecEnv") -> "Fleet":
        """Return a policy for each environment, as at the start of its episode.

        Raises:
            ArtifactError: the contract says something that nobody could act on, or its clock is not the simulator's.
        """
        bench = bench_for(env, self._task, self._subject)
        if isinstance(bench, str):
            raise ArtifactError(bench)
        return Fleet(self.library, self._subject.contract, bench, env.num_envs)

    def new_names(self) -> RowNames:
        """Return names for the rows of this share."""
        return RowNames(self._share)

    @property
    def subject(self) -> BundleAndCheckpoint:
        """Bundle, checkpoint, vehicle."""
        return self._subject

    def figures(self) -> HeaderFigures | None:
        """Return what was compared in the shadow so far, None if nothing was."""
        if isinstance(self._shadow, HeaderShadow):
            return self._shadow.figures()
        return None if self._shadow is None else HeaderFigures(self._shadow.result(self._subject.note))


class Fleet:
    """The header's policies in one rollout, one for each environment, until its first episode ends.

    Args:
        library: the header, built.
        contract: what the integrator knows.
        bench: the simulator.
        count: environments.

    Raises:
        ArtifactError: as for `HeaderFlights.fleet`.
    """

    def __init__(self, library: SandboxedLibrary, contract: Contract, bench: Bench, count: int) -> None:
        period = contract.timing.policy_period_s.value
        if isinstance(period, tuple) or not same_number(period, bench.period_s):
            raise ArtifactError(f"the contract's policy period is {period} s, a step here takes {bench.period_s:g} s")
        self._library, self._action = library, contract.action
        self.bench, self.integrator = bench, Integrator(contract)
        self._ended = np.zeros(count, np.bool_)
        library.begin(count)

    @property
    def flying(self) -> npt.NDArray[np.int32]:
        """Numbers of the environments whose first episode goes on."""
        return np.flatnonzero(~self._ended).astype(np.int32)

    def step(self, envs: npt.NDArray[np.int32], rows: npt.NDArray[np.float32]) -> Steps:
        """Let the policies of some environments compute a step, from their observations (n, 6928)."""
        raw = [self.bench.measure(row) for row in rows]
        state = np.stack([self.integrator.state(one) for one in raw])
        depth = np.stack([self.integrator.image(one.depth).reshape(-1) for one in raw])
        return self._library.steps(envs, state, depth)

    def hold(self, env: int, action: npt.NDArray[np.float32] | None) -> None:
        """Tell a policy which of the network's actions (4,) flew in place of its own; None: its last command again."""
        command = None
        if action is not None:
            limit = np.inf if self._action.clip is None else self._action.clip
            squashed = np.tanh(np.clip(action.astype(np.float64), -limit, limit))
            command = squashed * self._action.scale + self._action.offset
        self._library.hold(env, command)

    def land(self, record: StepRecord) -> None:
        """Take note of episodes that ended with a step."""
        self._ended |= record.done.cpu().numpy()


class HeaderShadow:
    """The header's policies beside another driver's flights, each fed every step of its first episode.

    Args:
        flights: what they belong to.
    """

    def __init__(self, flights: HeaderFlights) -> None:
        self._flights, self._names = flights, flights.new_names()
        self._comparison = self._compared_by(flights.subject.reference.transform)
        self._fleet: Fleet | None = None
        self._part, self._rule = 0, detector_rule(flights.subject.contract)
        self._detectors: list[GateDetector] = []
        self._steps, self._passages = 0, 0
        self._faults: Counter[str] = Counter()
        self._wrong: list[str] = []

    def _compared_by(self, transform: ActionTransform) -> ParityComparison:
        """Return a fresh accumulator of commands in SI units, by the simulator's transform, and gate logits."""
        threshold = self._flights.subject.semantics.threshold_logit
        semantics = OutputSemantics(ACTION_NAMES, ACTION_UNITS, transform, threshold)
        compared = "PyTorch drives, the C++ header computes each step from raw quantities, with a memory of its own"
        return ParityComparison(SHADOW, compared, self._flights.roles, semantics)

    def begin(self, env: "VecEnv", part: int) -> None:
        """Begin a rollout."""
        self._part, self._fleet = part, None
        try:
            self._fleet = self._flights.fleet(env)
        except ArtifactError as error:
            self._comparison.fail(str(error))
            return
        if not self._comparison.rows:
            self._comparison = self._compared_by(self._fleet.bench.transform)
        self._detectors = [] if self._rule is None else [GateDetector(self._rule) for _ in range(env.num_envs)]

    def __call__(self, record: StepRecord) -> None:
        """Compare what the policies compute of this step with what flew."""
        fleet = self._fleet
        if fleet is None or not len(envs := fleet.flying):
            return
        try:
            steps = fleet.step(envs, record.observation.cpu().numpy()[envs])
            reference = {name: values[envs] for name, values in self._reference(record, fleet).items()}
            self._steps += len(envs)
            self._compare(record.step, envs, steps, reference, fleet)
            for row in np.flatnonzero(steps.fault):
                self._faults[str(steps.fault[row])] += 1
                fleet.hold(int(envs[row]), reference["action"][row])
        except ArtifactError as error:
            self._fleet = None
            self._comparison.fail(str(error))
            return
        self._detect(record.step, envs, steps)
        fleet.land(record)

    def _reference(self, record: StepRecord, fleet: Fleet) -> Outputs:
        outputs = self._flights.subject.reference.roles(record.output)
        return {**outputs, "command": fleet.bench.transform.apply(outputs["action"])}

    def _compare(self, step: int, envs: npt.NDArray[np.int32], steps: Steps, reference: Outputs, fleet: Fleet) -> None:
        good = np.flatnonzero(steps.fault == 0)
        if not len(good):
            return
        self._names.add(self._part, step, envs[good].tolist())
        command = np.stack([fleet.integrator.si(steps.command[row]) for row in good])
        candidate: Outputs = {"command": command, "gate_logit": steps.gate_logit[good]}
        self._comparison.add({name: values[good] for name, values in reference.items()}, candidate)

    def _detect(self, step: int, envs: npt.NDArray[np.int32], steps: Steps) -> None:
        """Hold the passages that the policies announce against the contract's rule, on the same logits."""
        self._passages += int(steps.event.sum())
        for row, env in enumerate(envs if self._detectors else ()):
            if steps.fault[row]:
                self._detectors[env].pass_step()
                continue
            said, right = bool(steps.event[row]), self._detectors[env].step(float(steps.gate_logit[row, 0]))
            if said != right:
                rollout = f"rollout {self._part}, " if self._part else ""
                what = "announces a passage that the rule does not" if said else "announces none where the rule does"
                self._wrong.append(f"{rollout}step {step}, environment {env}: its detector {what}")

    def figures(self) -> HeaderFigures:
        """Return what was compared."""
        shadow = self._comparison.result(self._names, self._flights.subject.note)
        return HeaderFigures(shadow, self._steps, dict(self._faults), self._passages, tuple(self._wrong))


class HeaderDriver:
    """Flies all environments of one rollout with the header's policies, until their first episodes end.

    Args:
        fleet: the policies.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._last = np.tile(fleet.bench.transform.offset, (len(fleet.flying), 1))

    def __call__(self, observation: torch.Tensor) -> PolicyOutput:
        """Return the actions that give the policies' commands; zeros where the first episode is over.

        A refused step repeats the last command.
        """
        fleet, rows = self._fleet, observation.cpu().numpy()
        commands = np.tile(fleet.bench.transform.offset, (len(rows), 1))
        envs = fleet.flying
        if len(envs):
            steps = fleet.step(envs, rows[envs])
            for row, env in enumerate(envs):
                if steps.fault[row]:
                    fleet.hold(int(env), None)
                else:
                    self._last[env] = fleet.integrator.si(steps.command[row])
            commands[envs] = self._last[envs]
        actions = torch.from_numpy(fleet.bench.actions(commands)).to(observation.device)
        return PolicyOutput(actions, None, observation.new_empty(len(rows), 0))

    def watch(self, record: StepRecord) -> None:
        """Land whoever's first episode is over."""
        self._fleet.land(record)


def detector_rule(contract: Contract) -> DetectorRule | None:
    """Return the rule of a contract's detector, on logits; None without one."""
    detector = None if contract.gate is None else contract.gate.detector
    if contract.gate is None or detector is None:
        return None
    threshold, release = contract.gate.threshold_logit, detector.release_logit
    assert threshold is not None  # contracts with a detector and no threshold are refused when they are opened
    gain, steps, rise = detector.slope_gain, detector.slope_steps, detector.slope_rise
    slope = Slope(gain, steps, rise, threshold, release, probability=False) if gain else None
    return DetectorRule(threshold, release, detector.refractory_steps, slope)


def steps_check(shares: Iterable[HeaderFigures]) -> FactCheck | None:
    """Return the check of what the header's memory did; None where only its network ran.

    Args:
        shares: what each share compared.
    """
    found = list(shares)
    steps, faults = sum(share.steps for share in found), Counter[str]()
    for share in found:
        faults.update(share.faults)
    if not steps and all(share.shadow.rows for share in found):
        return None
    refused = faults.total()
    kinds = ", ".join(f"{fault_name(int(number))}: {count}" for number, count in sorted(faults.items()))
    text = f"the header refused {refused} of {steps} steps ({kinds})"
    wrong = [problem for share in found for problem in share.wrong]
    problems = [text] if refused > MAX_REFUSED * steps or not steps else []
    problems += wrong[:_MOST_NAMED] + ([f"and {len(wrong) - _MOST_NAMED} more"] if len(wrong) > _MOST_NAMED else [])
    passages = f"{sum(share.passages for share in found)} passages announced"
    return FactCheck(
        STEPS,
        "steps that the header accepts; passages that it announces, by the contract's rule on the same logits",
        steps,
        tuple(problems),
        f"{passages}; {text}" if refused and not problems else passages,
    )
