"""The third live mode: the bundle flies through the onboard runner, which knows the contract and nothing else.

At every step the command that comes out, in SI units, is held against the checkpoint's, by what the simulator measures
and does. So a constant that is wrong in the contract and in what it was made from alike shows, as do a frame, an order
and a unit; the flights' figures are compared besides.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from deploy_kit.bundle.parity import OutputSemantics, ParityCheck, ParityComparison
from deploy_kit.bundle.runners import ArtifactError, Outputs
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.flight.rollout import StepRecord
from deploy_kit.policy.network import PolicyOutput
from deploy_kit.policy.run.env_file import same_number
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS
from deploy_kit.verify.bench import Bench, bench_for
from deploy_kit.verify.bundle_and_checkpoint import BundleAndCheckpoint
from deploy_kit.verify.options import DEFAULT_RUNTIME
from deploy_kit.verify.report import FactCheck
from deploy_kit.verify.rollouts import RowNames

if TYPE_CHECKING:
    from rsl_rl.env import VecEnv

    from deploy_kit.verify.pilot import Pilot

CONTRACT = "live/contract"
COMMANDS = "live/contract-commands"
ACCEPTED = "live/contract-accepted"

MAX_REFUSED = 1e-3
"""Share of steps that the runner may refuse: a drone that falls may leave every range that a contract can name."""


class ContractFlights:
    """Accumulates what the flights from the contract alone gave.

    Args:
        subject: bundle, checkpoint, vehicle.
        task: what flies.
        runtime: how the graph is run, if it is on the CPU.
        share: the words that name the share of the flights, empty for all of them.
    """

    def __init__(
        self, subject: BundleAndCheckpoint, task: str, runtime: Runtime = DEFAULT_RUNTIME, share: str = ""
    ) -> None:
        # Many sessions fit into a CPU's memory, not into a GPU's; constants show on either.
        self._runtime = runtime if runtime.provider == "cpu" else DEFAULT_RUNTIME
        self._subject, self._task = subject, task
        self._names = RowNames(share)
        self._comparison: ParityComparison | None = None
        self._note: str | None = None
        self._parts = 0
        self.faults: dict[str, int] = {}
        self.steps = 0

    def driver(self, env: "VecEnv") -> "ContractDriver":
        """Return what flies all environments, with a runner each.

        Raises:
            ArtifactError: the runner refuses the bundle, the contract says something that nobody could act on, or its
                clock is not the simulator's.
        """
        # It needs onnxruntime, and without it the command says so in one line.
        from deploy_kit.verify.pilot import Pilot

        bench = bench_for(env, self._task, self._subject)
        if isinstance(bench, str):
            raise ArtifactError(bench)
        contract = self._subject.contract
        pilots = [Pilot(self._subject.bundle.path, contract, self._runtime) for _ in range(env.num_envs)]
        if not same_number(pilots[0].period_s, bench.period_s):
            raise ArtifactError(
                f"the contract's policy period is {pilots[0].period_s:g} s, a step here takes {bench.period_s:g} s"
            )
        if self._comparison is None:
            semantics = OutputSemantics(
                ACTION_NAMES, ACTION_UNITS, bench.transform, self._subject.semantics.threshold_logit
            )
            roles = ("command",) if contract.gate is None else ("command", "gate_probability")
            compared = f"the onboard runner drives ({self._runtime}); each command, by the simulator's own units"
            self._comparison = ParityComparison(COMMANDS, compared, roles, semantics)
            self._note = bench.note
        driver = ContractDriver(self, bench, pilots, self._parts)
        self._parts += 1
        return driver

    def compare(self, part: int, step: int, envs: list[int], reference: Outputs, candidate: Outputs) -> None:
        """Compare the commands of one step."""
        assert self._comparison is not None
        self._names.add(part, step, envs)
        self._comparison.add(reference, candidate)

    def reference(self, observation: np.ndarray, bench: Bench) -> Outputs:
        """Return what the checkpoint gives, its command by the simulator's transform."""
        outputs = self._subject.reference(observation)
        return {**outputs, "command": bench.transform.apply(outputs["action"])}

    def commands_check(self) -> ParityCheck | None:
        """Return the comparison of all commands, None if nothing was flown."""
        if self._comparison is None:
            return None
        notes = [self._note, self._subject.note]
        return self._comparison.result(self._names, "; ".join(filter(None, notes)) or None)


def accepted_check(shares: Iterable[Mapping[str, int]], steps: int) -> FactCheck:
    """Return the check that the runner flies where the checkpoint does, by the contract's ranges.

    Args:
        shares: how often it refused a step, by its reason, in each share of the flights.
        steps: that it was given in all of them.
    """
    faults: Counter[str] = Counter()
    for share in shares:
        faults.update(share)
    count = faults.total()
    refused = ", ".join(f"{name} {number}" for name, number in sorted(faults.items()))
    text = f"the runner refused {count} of {steps} steps: {refused}"
    few = count <= MAX_REFUSED * steps
    return FactCheck(
        ACCEPTED,
        "steps that the onboard runner accepts, by the contract's ranges",
        steps,
        () if few else (text,),
        text if few and count else None,
    )


class ContractDriver:
    """Flies all environments of one rollout, each with an onboard runner of its own, until its first episode ends.

    Args:
        flights: what to report to.
        bench: the simulator.
        pilots: one for each environment.
        part: number of the rollout.
    """

    def __init__(self, flights: ContractFlights, bench: Bench, pilots: "list[Pilot]", part: int) -> None:
        self._flights, self._bench, self._pilots, self._part = flights, bench, pilots, part
        self._ended = np.zeros(len(pilots), np.bool_)
        self._step = 0

    def __call__(self, observation: torch.Tensor) -> PolicyOutput:
        """Return the actions that give the runners' commands; zeros where the first episode is over."""
        rows = np.ascontiguousarray(observation.cpu().numpy())
        commands = np.tile(self._bench.transform.offset, (len(rows), 1))
        probability = np.full((len(rows), 1), 0.5)
        compared: list[int] = []
        for env in np.flatnonzero(~self._ended).tolist():
            commands[env], output = self._pilots[env].step(self._bench.measure(rows[env]))
            self._flights.steps += 1
            if output is not None:
                compared.append(env)
                probability[env] = 0.5 if output.gate_probability is None else output.gate_probability
        if compared:
            reference = self._flights.reference(rows[compared], self._bench)
            candidate = {"command": commands[compared], "gate_probability": probability[compared]}
            self._flights.compare(self._part, self._step, compared, reference, candidate)
        self._step += 1
        actions = torch.from_numpy(self._bench.actions(commands)).to(observation.device)
        return PolicyOutput(actions, None, observation.new_empty(len(rows), 0))

    def watch(self, record: StepRecord) -> None:
        """Land whoever's first episode is over, and gather what its runner refused."""
        done = record.done.cpu().numpy()
        for env in np.flatnonzero(done & ~self._ended).tolist():
            for name, count in self._pilots[env].faults.items():
                self._flights.faults[name] = self._flights.faults.get(name, 0) + count
        self._ended |= done
