"""The contract of any policy that is no `VisionActorCritic`: `contract.json` with ``"kind": "policy"``.

Plain data without torch. What is not known is null.
"""

from dataclasses import dataclass
from typing import Any

from deploy_kit.bundle.contract_fields import NormalizerSpec, Provenance, TensorSpec, Versions
from deploy_kit.bundle.contract_text import POLICY_KIND, contract_data, decoded, require_all, text_of
from deploy_kit.bundle.policy_tensors import ACTIONS, LOGIT, OBSERVATION, STATE
from deploy_kit.errors import BundleError
from deploy_kit.policy.calibration import GateDetector
from deploy_kit.policy.run.task_meaning import TaskMeaning

POLICY_SCHEMA_VERSION = 1
"""Version of this contract's JSON; raised whenever a field changes its meaning, appears or goes."""

RESET = "zeros"
"""The one rule by which a state begins."""


@dataclass(frozen=True)
class GroupSpec:
    """One observation group, which is one input of the graph.

    Attributes:
        name: name of the group in the run.
        shape: sizes of one row, without the batch.
        normalised: whether the normaliser inside the graph covers it.
    """

    name: str
    shape: tuple[int, ...]
    normalised: bool


@dataclass(frozen=True)
class StateSpec:
    """One tensor of the policy's memory.

    Attributes:
        input: name of the graph's input.
        output: name of the graph's output, which is the next step's input.
        layers: number of layers, the first dimension; the batch is the second one.
        hidden: numbers in each layer.
        reset: what the input is at the first step of an episode: "zeros".
    """

    input: str
    output: str
    layers: int
    hidden: int
    reset: str


@dataclass(frozen=True)
class HeadSpec:
    """What the head predicts and where to cut. Without a calibration all but the rule is unknown.

    Attributes:
        threshold_logit: a step is positive where the logit is at or above it.
        detector: announces events.
        detector_rule: what the detector does at each step, in words.
        rule: how threshold and detector were chosen.
        label_rule: what a positive label means.
        label_offset_steps: by how many steps the label follows the observation.
        policy_period_s: duration of a step in the feature file, s.
        base_rate: share of positive steps where the threshold was chosen.
        dataset_sha256: the feature file that the head was calibrated on.
        metrics: figures of the calibration on test episodes.
        training: options of the finetuning.
        tool_version: version of deploy-kit that calibrated the head.
    """

    threshold_logit: float | None
    detector: GateDetector | None
    detector_rule: str | None
    rule: str
    label_rule: str | None
    label_offset_steps: int | None
    policy_period_s: float | None
    base_rate: float | None
    dataset_sha256: str | None
    metrics: dict[str, float]
    training: dict[str, Any]
    tool_version: str | None


@dataclass(frozen=True)
class PolicyNetworkSpec:
    """The exported network.

    Attributes:
        kind: class of the network.
        settings: what the class is built with.
        num_actions: numbers of the action.
        feature_size: numbers that the head reads.
        feature_layer: layer of the checkpoint that reads them too.
        features_tensor: their name inside the graph.
        operators: operators that a runtime must offer.
    """

    kind: str
    settings: dict[str, Any]
    num_actions: int
    feature_size: int
    feature_layer: str
    features_tensor: str
    operators: tuple[str, ...]


@dataclass(frozen=True)
class PolicyContract:
    """Everything that the weights of any policy alone cannot say.

    Attributes:
        kind: "policy".
        schema_version: of this layout; readers refuse any other.
        created_utc: when the bundle was written, ISO 8601.
        inputs: tensors that the graph takes, in order: observation groups, then the state.
        outputs: tensors that the graph gives, in order: actions, the head's logit, the next state.
        groups: observation groups, in the order of the inputs.
        state: memory of a recurrent policy, in the order of the inputs; empty without one.
        normalizer: over the groups of numbers, one after the other; null where the policy has none.
        head: the head; null without its output.
        network: the network.
        task: what observations and actions mean, and the clock; null where the run's files do not tell.
        run: sha256 of the run's ``agent.yaml``, ``env.yaml`` and ``interface.yaml``, as far as export found them.
        provenance: where the weights came from.
        versions: software that wrote the bundle.
    """

    kind: str
    schema_version: int
    created_utc: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    groups: tuple[GroupSpec, ...]
    state: tuple[StateSpec, ...]
    normalizer: NormalizerSpec | None
    head: HeadSpec | None
    network: PolicyNetworkSpec
    task: TaskMeaning | None
    run: dict[str, str]
    provenance: Provenance
    versions: Versions

    def to_json(self, indent: int | None = 2) -> str:
        """Return the contract as JSON text; the same contract always gives the same text."""
        return text_of(self, indent)

    @classmethod
    def from_json(cls, text: str, where: str = "contract.json") -> "PolicyContract":
        """Read a contract.

        Args:
            text: JSON text.
            where: what to call the text in messages.

        Raises:
            BundleError: not JSON, of another kind or version, or a field is unknown, missing, mistyped or inconsistent.
        """
        data = contract_data(text, where)
        if not isinstance(data, dict) or data.get("kind") != POLICY_KIND:
            raise BundleError(f"{where}: no contract of kind {POLICY_KIND!r}; give a bundle of such a policy")
        contract = decoded(cls, data, POLICY_SCHEMA_VERSION, where)
        contract._validate(where)
        return contract

    @property
    def batch(self) -> int | None:
        """The graph's fixed batch size, None for a dynamic one."""
        size = self.inputs[0].shape[0]
        return size if isinstance(size, int) else None

    def _validate(self, where: str) -> None:
        batch: int | str = self.inputs[0].shape[0] if self.inputs and self.inputs[0].shape else "batch"
        state_shapes = [(item.layers, batch, item.hidden) for item in self.state]
        inputs = [(OBSERVATION, (batch, *group.shape)) for group in self.groups]
        inputs += [(STATE, shape) for shape in state_shapes]
        outputs: list[tuple[str, tuple[int | str, ...]]] = [(ACTIONS, (batch, self.network.num_actions))]
        outputs += [] if self.head is None else [(LOGIT, (batch, 1))]
        outputs += [(STATE, shape) for shape in state_shapes]
        names = [spec.name for spec in (*self.inputs, *self.outputs)]
        of_state = (
            [spec.name for spec in self.inputs if spec.role == STATE],
            [spec.name for spec in self.outputs if spec.role == STATE],
        )
        stated = [item.input for item in self.state], [item.output for item in self.state]
        checks = {
            "there is no observation group": bool(self.groups),
            "inputs do not fit groups and state": [(spec.role, spec.shape) for spec in self.inputs] == inputs,
            "outputs do not fit actions, head and state": [(spec.role, spec.shape) for spec in self.outputs] == outputs,
            "tensor names are not unique": len(set(names)) == len(names),
            "state does not name the tensors of the graph": of_state == stated,
            f"a state must begin with {RESET}": all(item.reset == RESET for item in self.state),
            "sizes must be positive": all(
                size > 0
                for sizes in (*(group.shape for group in self.groups), *((i.layers, i.hidden) for i in self.state))
                for size in sizes
            ),
            "groups have one or three dimensions": all(len(group.shape) in (1, 3) for group in self.groups),
        }
        require_all(checks, where)
