"""One way to call every artifact of any policy: one step, groups and state in, arrays by role out.

The next state is given by the names of the graph's outputs. The truth is `PolicyReference`.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx
import torch

from deploy_kit.bundle.batches import in_batches
from deploy_kit.bundle.policy_contract import PolicyContract
from deploy_kit.bundle.policy_tensors import ACTIONS, LOGIT, STATE
from deploy_kit.bundle.runners import (
    GATE_TERMS,
    ArtifactError,
    Float32,
    GraphSession,
    Outputs,
    run_module,
)
from deploy_kit.bundle.runtime import Runtime
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.policy.protocol import PolicyNetwork

Groups = Mapping[str, Float32]
State = tuple[Float32, ...]
StepRunner = Callable[[Groups, State], Outputs]
"""Groups (B, …) by name and state (layers, B, hidden) in; outputs (B, …) by role and next state by name out."""


class PolicyReference:
    """The checkpoint's network: the truth that artifacts are compared with. Any network can be run this way.

    Args:
        network: in eval mode, on the CPU.
        state_outputs: names of the next state, in the order of the network's state.
        head: whether to give the head's logit.
    """

    def __init__(self, network: PolicyNetwork, state_outputs: tuple[str, ...], *, head: bool) -> None:
        if network.training:
            raise ArtifactError("the checkpoint's network is in training mode; call eval() on it")
        self.network, self.state_outputs, self.head = network, state_outputs, head

    def __call__(self, groups: Groups, state: State) -> Outputs:
        """Return all roles of one step."""
        with torch.inference_mode():
            given = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in groups.items()}
            output = self.network(given, tuple(torch.from_numpy(np.ascontiguousarray(tensor)) for tensor in state))
            outputs: Outputs = {ACTIONS: output.action.numpy(), FEATURES_TENSOR: output.features.numpy()}
            if self.head and output.head_logit is not None:
                outputs[LOGIT] = output.head_logit.numpy()
                outputs[GATE_TERMS] = self.network.head_terms(output.features).numpy()
            return outputs | {
                name: tensor.numpy() for name, tensor in zip(self.state_outputs, output.state, strict=True)
            }

    def initial_state(self, batch: int) -> State:
        """Return the state at the start of an episode."""
        return tuple(tensor.numpy() for tensor in self.network.initial_state(batch))


class PolicyOnnxRunner:
    """The ONNX graph in onnxruntime.

    Args:
        model: content of the file.
        contract: gives names and roles.
        runtime: how to run it.
        features: give the tensor of the features too, from a copy of the graph that has it as an output.

    Raises:
        ArtifactError: it cannot be loaded, or another provider than the one asked for runs.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(self, model: bytes, contract: PolicyContract, runtime: Runtime, *, features: bool = False) -> None:
        self._contract, self.runtime = contract, runtime
        self._session = GraphSession(model, runtime)
        self._features = GraphSession(_with_features(model, contract), runtime) if features else None
        self.providers = self._session.providers

    def __call__(self, groups: Groups, state: State) -> Outputs:
        """Return the outputs of one step.

        Raises:
            ArtifactError: onnxruntime refuses to run it.
        """
        feed = _feed(self._contract, groups, state)
        names = [spec.name for spec in self._contract.outputs]
        outputs = _batched(self._contract, partial(self._session.run, names), feed)
        if self._features is not None:
            outputs |= _batched(self._contract, partial(self._features.run, [FEATURES_TENSOR]), feed)
        return {role_of(self._contract, name): values for name, values in outputs.items()}

    def executed(self) -> dict[str, Counter[str]]:
        """Run one step of zeros under onnxruntime's profiler; return how often each operator ran on each provider.

        Raises:
            ArtifactError: onnxruntime refuses to run it, or its profile cannot be read.
        """
        batch = self._contract.batch or 1
        feed = {
            spec.name: np.zeros([size if isinstance(size, int) else batch for size in spec.shape], np.float32)
            for spec in self._contract.inputs
        }
        return self._session.executed(feed)


class PolicyModuleRunner:
    """The TorchScript module.

    Args:
        module: runs it on arrays, one for each input.
        contract: gives the order of inputs and outputs.
    """

    def __init__(self, module: Callable[[list[Float32]], list[Float32]], contract: PolicyContract) -> None:
        self._module, self._contract = module, contract

    def __call__(self, groups: Groups, state: State) -> Outputs:
        """Return the outputs of one step.

        Raises:
            ArtifactError: torch refuses to run it, or the number of outputs is not the contract's.
        """
        outputs = _batched(self._contract, self._run, _feed(self._contract, groups, state))
        return {role_of(self._contract, name): values for name, values in outputs.items()}

    def _run(self, feed: dict[str, Float32]) -> Outputs:
        return run_module(self._module, list(feed.values()), [spec.name for spec in self._contract.outputs])


def role_of(contract: PolicyContract, name: str) -> str:
    """Return how an output is called among results: by its role, a state by its name."""
    spec = next((spec for spec in contract.outputs if spec.name == name), None)
    return name if spec is None or spec.role == STATE else spec.role


def roles_of(contract: PolicyContract) -> tuple[str, ...]:
    """Return how all outputs are called among results."""
    return tuple(role_of(contract, spec.name) for spec in contract.outputs)


def _feed(contract: PolicyContract, groups: Groups, state: State) -> dict[str, Float32]:
    values = [*(groups[group.name] for group in contract.groups), *state]
    return {
        spec.name: np.ascontiguousarray(value, np.float32) for spec, value in zip(contract.inputs, values, strict=True)
    }


def _batched(
    contract: PolicyContract, run: Callable[[dict[str, Float32]], Outputs], feed: dict[str, Float32]
) -> Outputs:
    """Run in batches of the graph's fixed size; a state's rows are its second dimension."""
    axes = {spec.name: 1 for spec in (*contract.inputs, *contract.outputs) if spec.role == STATE}
    return in_batches(run, feed, contract.batch, axes)


def _with_features(model: bytes, contract: PolicyContract) -> bytes:
    """Return the graph with the features as a further output."""
    graph = onnx.load_model_from_string(model)
    if not any(FEATURES_TENSOR in node.output for node in graph.graph.node):
        raise ArtifactError(f"the graph has no tensor {FEATURES_TENSOR!r}")
    shape = [contract.batch or "batch", contract.network.feature_size]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(FEATURES_TENSOR, onnx.TensorProto.FLOAT, shape))
    kept = [value for value in graph.graph.value_info if value.name != FEATURES_TENSOR]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(kept)
    return bytes(graph.SerializeToString())


def row_matrix(values: npt.NDArray[np.float32], *, state: bool) -> npt.NDArray[np.float32]:
    """Return outputs as rows: (B, n) as they are, a state (layers, B, hidden) as (B, layers · hidden)."""
    return values.transpose(1, 0, 2).reshape(values.shape[1], -1) if state else values
