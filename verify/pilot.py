"""Flies one drone with the onboard runner, from raw quantities, by the contract alone."""

from pathlib import Path

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.runners import ArtifactError
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.onboard import OnboardFault, OnboardOptions, OnboardOutput, OnboardPolicy
from deploy_kit.verify.bench import Float64, RawInput
from deploy_kit.verify.integrator import Integrator
from deploy_kit.verify.options import DEFAULT_RUNTIME


class Pilot:
    """The onboard runner with the integrator's code around it.

    Args:
        bundle: the bundle's folder.
        contract: what the integrator knows.
        runtime: how the graph is run.

    Raises:
        ArtifactError: the runner refuses the bundle, or the contract says something that nobody could act on.
    """

    def __init__(self, bundle: Path, contract: Contract, runtime: Runtime = DEFAULT_RUNTIME) -> None:
        # Where the reference flies on without a return, so must the runner. What lies beside the bundle is no report
        # of this run.
        options = OnboardOptions(
            provider=runtime.execution_provider,
            level=runtime.level,
            threads=runtime.threads,
            max_blind_s=None,
            allow_unverified=True,
        )
        try:
            self._policy = OnboardPolicy(bundle, options)
        except OnboardFault as fault:
            raise ArtifactError(f"the onboard runner refuses the bundle: {fault}") from fault
        self._integrator = Integrator(contract)
        self.faults: dict[str, int] = {}
        self._last: Float64 | None = None

    @property
    def period_s(self) -> float:
        """Time between two steps, by the contract."""
        return self._policy.contract.policy_period_s

    def reset(self) -> None:
        """Begin an episode."""
        self._policy.reset()
        self._last = None

    def step(self, raw: RawInput) -> tuple[Float64, OnboardOutput | None]:
        """Return the command (4,) in SI units and body axes, and what the runner gave; None where it refused.

        A refused step repeats the last command, as `OnboardPolicy.hold` says.

        Raises:
            ArtifactError: the contract asks for a quantity that the simulator does not measure.
        """
        try:
            output = self._policy.step(self._integrator.state(raw), self._integrator.image(raw.depth))
        except OnboardFault as fault:
            self.faults[fault.fault.value] = self.faults.get(fault.fault.value, 0) + 1
            self._policy.hold()
            return self._integrator.si(self._policy.contract.offset) if self._last is None else self._last, None
        self._last = self._integrator.si(output.command)
        return self._last, output
