"""What whoever flies the bundle must know: inputs, outputs, units, frames, transforms, rates, threshold, provenance.

Plain data without torch. Written as `contract.json` and into the ONNX's `metadata_props`, with full float precision.
"""

from dataclasses import dataclass

from deploy_kit.bundle.contract_fields import (
    ActionSpec,
    GateSpec,
    InputLayout,
    NetworkSpec,
    ObservationSpec,
    Provenance,
    SourcedValue,
    TensorSpec,
    TimingSpec,
    Versions,
)
from deploy_kit.bundle.contract_text import POLICY_KIND, contract_data, decoded, require_all, text_of
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR as FEATURES_TENSOR
from deploy_kit.errors import BundleError
from deploy_kit.policy.run.camera import CameraSpec
from deploy_kit.policy.run.state_term import StateTerm

SCHEMA_VERSION = 2
"""Version of the contract's JSON; raised whenever a field changes its meaning, appears or goes."""

CONTRACT_METADATA_KEY = "deploy_kit_contract"
"""Key of the contract's JSON text in the ONNX's `metadata_props`."""


@dataclass(frozen=True)
class Contract:
    """Everything that the weights alone cannot say; `contract_fields` describes the parts.

    Attributes:
        schema_version: of this layout; readers refuse any other.
        created_utc: when the bundle was written, ISO 8601.
        inputs: tensors that the graph takes, in order.
        outputs: tensors that the graph gives, in order.
        observation: what the input's numbers mean.
        action: from the graph's output to the command.
        gate: the gate head; null without the gate output.
        timing: clock of policy and camera.
        camera: the depth camera; null where nothing tells it.
        vehicle: numbers of the vehicle by name, among them those that scale the action.
        network: shape of the network.
        provenance: where the weights came from.
        versions: software that wrote the bundle.
    """

    schema_version: int
    created_utc: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    observation: ObservationSpec
    action: ActionSpec
    gate: GateSpec | None
    timing: TimingSpec
    camera: CameraSpec | None
    vehicle: dict[str, SourcedValue]
    network: NetworkSpec
    provenance: Provenance
    versions: Versions

    def to_json(self, indent: int | None = 2) -> str:
        """Return the contract as JSON text; the same contract always gives the same text."""
        return text_of(self, indent)

    @classmethod
    def from_json(cls, text: str, where: str = "contract.json") -> "Contract":
        """Read a contract.

        Args:
            text: JSON text.
            where: what to call the text in messages.

        Raises:
            BundleError: not JSON, another schema version, or a field is unknown, missing, mistyped or inconsistent.
        """
        data = contract_data(text, where)
        if isinstance(data, dict) and data.get("kind") == POLICY_KIND:
            raise BundleError(f"{where}: a bundle of another policy than VisionActorCritic, which this does not take")
        contract = decoded(cls, data, SCHEMA_VERSION, where)
        contract._validate(where)
        return contract

    @property
    def batch(self) -> int | None:
        """The graph's fixed batch size, None for a dynamic one."""
        size = self.inputs[0].shape[0]
        return size if isinstance(size, int) else None

    def input(self, role: str) -> TensorSpec:
        """Return the input of that role, KeyError if the layout has none."""
        return _by_role(self.inputs, role)

    def output(self, *roles: str) -> TensorSpec | None:
        """Return the first output with one of the roles, None if there is none."""
        return next((spec for spec in self.outputs if spec.role in roles), None)

    def _validate(self, where: str) -> None:
        observation, action = self.observation, self.action
        depth = observation.depth
        expected_roles = ("observation",) if observation.layout is InputLayout.FLAT else ("state", "depth")
        action_role = "command" if action.inside_graph else "action"
        output_roles = [action_role] + ([] if self.gate is None else [f"gate_{self.gate.output}"])
        stops = [0, *(term.stop for term in observation.terms)]
        checks = {
            "inputs do not fit observation.layout": tuple(spec.role for spec in self.inputs) == expected_roles,
            "outputs do not fit action and gate": [spec.role for spec in self.outputs] == output_roles,
            "tensor names are not unique": len({spec.name for spec in (*self.inputs, *self.outputs)})
            == len(self.inputs) + len(self.outputs),
            "observation.size is not state plus image": observation.size
            == observation.state_size + depth.rows * depth.columns
            and depth.start == observation.state_size,
            "observation.terms do not tile the state": [term.start for term in observation.terms] == stops[:-1]
            and stops[-1] == observation.state_size,
            "observation.terms: low, high or scale do not fit the term": all(map(_fits_its_size, observation.terms)),
            "timing: periods must be positive and the latency whole": self.timing.is_valid(),
            "action: names, units, scale and offset differ in length": len(action.names)
            == len(action.units)
            == len(action.scale)
            == len(action.offset)
            == self.network.num_actions,
            "observation.depth: clip_m and divisor_m must be positive, or both null": (
                depth.clip_m is None and depth.divisor_m is None
            )
            or (min(depth.clip_m or 0.0, depth.divisor_m or 0.0) > 0),
            "gate: a threshold needs a detector, whose release lies at or below its threshold": self.gate is None
            or _detector_fits(self.gate),
        }
        require_all(checks, where)


def _fits_its_size(term: StateTerm) -> bool:
    size = term.stop - term.start
    if (term.low is None) != (term.high is None) or (term.scale is not None and len(term.scale) != size):
        return False
    return term.low is None or (
        len(term.low) == len(term.high or ()) == size
        and all(low <= high for low, high in zip(term.low, term.high or (), strict=True))
    )


def _detector_fits(gate: GateSpec) -> bool:
    detector = gate.detector
    if detector is None:
        return gate.threshold_logit is None
    return (
        gate.threshold_logit is not None
        and detector.release_logit <= detector.threshold_logit
        and detector.release_probability <= detector.threshold_probability
        and min(detector.refractory_steps, detector.tolerance_steps, detector.slope_steps, detector.slope_gain) >= 0
    )


def _by_role(specs: tuple[TensorSpec, ...], role: str) -> TensorSpec:
    for spec in specs:
        if spec.role == role:
            return spec
    raise KeyError(role)
