"""One way to call every artifact: flat observations (or features) in, arrays by role out.

Roles are the contract's: "action" (unbounded) or "command" (physical), "gate_logit" or "gate_probability", "features".
The truth is `Reference`, the checkpoint's own network in PyTorch; everything else is held against it.
"""

import importlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from deploy_kit.bundle.batches import in_batches
from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import InputLayout
from deploy_kit.bundle.runtime import Runtime, executed, session_options
from deploy_kit.bundle.tensor_names import FEATURES_TENSOR
from deploy_kit.errors import CheckFailedError, MissingDependencyError
from deploy_kit.policy.network import PolicyOutput, VisionActorCritic
from deploy_kit.task.interface import ActionTransform
from deploy_kit.text import one_line

Float32 = npt.NDArray[np.float32]
Outputs = dict[str, npt.NDArray[Any]]
Runner = Callable[[Float32], Outputs]

ANY_THREADS = Runtime(threads=0)
"""The CPU with as many threads as onnxruntime likes: for many rows at once."""


class ArtifactError(CheckFailedError):
    """An artifact of the bundle cannot be loaded or run."""


def import_onnxruntime() -> ModuleType:
    """Return the module onnxruntime; it is imported here, so that work without ONNX graphs needs none.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        return importlib.import_module("onnxruntime")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "onnxruntime is not installed, and no graph is exported, verified or flown without it: "
            'pip install "deploy-kit[cpu]" (or [gpu])'
        ) from error


def onnxruntime_errors() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises: its own exceptions have no common base, and each version has others."""
    state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError, ValueError, OSError)


GATE_TERMS = "gate_terms"
"""Role of the summed sizes of the gate logit's terms; the checkpoint alone gives it, as the logit's yardstick."""

FEATURE_TERMS = "feature_terms"
"""The same of each feature's terms: how large the sums inside the network are."""


class Reference:
    """The checkpoint's network: the truth that artifacts are compared with.

    Args:
        network: eval mode, CPU, float32.
        transform: transform from its unbounded action to the physical command.
    """

    def __init__(self, network: VisionActorCritic, transform: ActionTransform) -> None:
        if network.training:
            raise ArtifactError("the checkpoint's network is in training mode; call eval() on it")
        self.network = network
        self.transform = transform

    def __call__(self, observation: Float32) -> Outputs:
        """Return all roles for flat observations (n, 6928)."""
        with torch.inference_mode():
            output, terms = self.network.with_feature_terms(torch.from_numpy(np.ascontiguousarray(observation)))
            return self.roles(output) | {FEATURE_TERMS: terms.numpy()}

    def heads(self, features: Float32) -> Outputs:
        """Return all roles for features (n, 192)."""
        with torch.inference_mode():
            return self.roles(self.network.heads(torch.from_numpy(np.ascontiguousarray(features))))

    def roles(self, output: PolicyOutput) -> Outputs:
        """Return all roles of an output of the network."""
        action = output.action.cpu().numpy()
        outputs = {"action": action, "command": self.transform.apply(action), "features": output.features.cpu().numpy()}
        if output.gate_logit is not None:
            outputs["gate_logit"] = output.gate_logit.cpu().numpy()
            outputs["gate_probability"] = torch.sigmoid(output.gate_logit).cpu().numpy()
            outputs[GATE_TERMS] = self.network.gate_terms(output.features).cpu().numpy()
        return outputs


class NetworkRunner:
    """The network rebuilt from the bundle's safetensors file.

    Args:
        network: network as `load_checkpoint` rebuilt it.
        gate: whether the bundle has a gate output.
    """

    def __init__(self, network: VisionActorCritic, gate: bool) -> None:
        self._network = network
        self._gate = gate

    def __call__(self, observation: Float32) -> Outputs:
        """Return action, features and, with a gate, its logit for flat observations (n, 6928)."""
        with torch.inference_mode():
            output = self._network(torch.from_numpy(observation))
        outputs = {"action": output.action.numpy(), "features": output.features.numpy()}
        if self._gate and output.gate_logit is not None:
            outputs["gate_logit"] = output.gate_logit.numpy()
        return outputs


def open_session(source: bytes | str, runtime: Runtime) -> Any:
    """Return onnxruntime's session of a graph.

    Args:
        source: the graph, or its file.
        runtime: how to run it.

    Raises:
        ArtifactError: it cannot be loaded, or another provider than the one asked for runs.
        MissingDependencyError: onnxruntime is not installed.
    """
    ort = import_onnxruntime()
    wanted = runtime.execution_provider
    if wanted not in (available := ort.get_available_providers()):
        hint = "" if runtime.provider == "cpu" else '; for a GPU, pip install "deploy-kit[gpu]" instead of [cpu]'
        raise ArtifactError(f"onnxruntime has no {wanted}, only {', '.join(available)}{hint}")
    providers = [(wanted, runtime.provider_options)]
    try:
        session = ort.InferenceSession(source, session_options(ort, runtime), providers=providers)
    except onnxruntime_errors() as error:
        raise ArtifactError(f"onnxruntime cannot load the graph: {one_line(error)}") from error
    # Else a session whose provider fails in a run goes on with another one.
    session.disable_fallback()
    if session.get_providers()[0] != wanted:
        raise ArtifactError(f"onnxruntime runs on {session.get_providers()[0]}, asked for {wanted}")
    return session


class GraphSession:
    """A graph in onnxruntime, whose failures are named.

    Args:
        source: the graph, or its file.
        runtime: how to run it.

    Raises:
        ArtifactError: it cannot be loaded, or another provider than the one asked for runs.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(self, source: bytes | str, runtime: Runtime) -> None:
        self._source, self._runtime = source, runtime
        self._session, self._errors = open_session(source, runtime), onnxruntime_errors()
        self.providers = tuple(self._session.get_providers())

    def run(self, names: Sequence[str], feed: Outputs) -> Outputs:
        """Return the tensors of these names.

        Raises:
            ArtifactError: onnxruntime refuses to run it.
        """
        try:
            values = self._session.run(list(names), feed)
        except self._errors as error:
            rows = len(next(iter(feed.values())))
            raise ArtifactError(f"onnxruntime cannot run the graph on {rows} rows: {one_line(error)}") from error
        return dict(zip(names, values, strict=True))

    def executed(self, feed: Outputs) -> dict[str, Counter[str]]:
        """Run it under onnxruntime's profiler, and return how often each operator ran on each provider.

        Raises:
            ArtifactError: onnxruntime refuses to run it, or its profile cannot be read.
        """
        try:
            return executed(import_onnxruntime(), self._source, self._runtime, lambda session: session.run(None, feed))
        except self._errors as error:
            raise ArtifactError(f"onnxruntime cannot profile the graph: {one_line(error)}") from error


class OnnxRunner:
    """An ONNX graph in onnxruntime.

    Args:
        model: the file, its content, or a graph cut from it.
        contract: gives the inputs' names and layout, the outputs' names and roles.
        outputs: tensor name by role; the contract's outputs if None.
        features: whether the graph takes features instead of an observation.
        runtime: how to run it.

    Raises:
        ArtifactError: it cannot be loaded, or another provider than the one asked for runs.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(
        self,
        model: Path | bytes | onnx.ModelProto,
        contract: Contract,
        outputs: dict[str, str] | None = None,
        features: bool = False,
        runtime: Runtime = ANY_THREADS,
    ) -> None:
        self._contract = contract
        self._features = features
        self._outputs = outputs or {spec.role: spec.name for spec in contract.outputs}
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
        if isinstance(source, Path):
            source = str(source)
        self.runtime = runtime
        self._session = GraphSession(source, runtime)
        self.providers = self._session.providers

    def executed(self, rows: Float32) -> dict[str, Counter[str]]:
        """Run rows under onnxruntime's profiler, and return how often each operator ran on each provider.

        Raises:
            ArtifactError: onnxruntime refuses to run it, or its profile cannot be read.
        """
        return self._session.executed(self._feed(rows))

    def __call__(self, rows: Float32) -> Outputs:
        """Return the outputs by role for flat observations (n, 6928), or features (n, 192).

        Raises:
            ArtifactError: onnxruntime refuses to run it.
        """
        return in_batches(self._run, self._feed(rows), self._contract.batch)

    def _feed(self, rows: Float32) -> Outputs:
        return {FEATURES_TENSOR: rows} if self._features else split_inputs(rows, self._contract)

    def _run(self, feed: Outputs) -> Outputs:
        values = self._session.run(list(self._outputs.values()), feed).values()
        return dict(zip(self._outputs, map(np.atleast_1d, values), strict=True))


class TorchScriptRunner:
    """The TorchScript module.

    Args:
        module: runs it on arrays, one for each input.
        contract: gives the order of inputs and outputs.
    """

    def __init__(self, module: Callable[[list[Float32]], list[Float32]], contract: Contract) -> None:
        self._module = module
        self._contract = contract

    def __call__(self, observation: Float32) -> Outputs:
        """Return the outputs by role for flat observations (n, 6928).

        Raises:
            ArtifactError: torch refuses to run it, or the number of outputs is not the contract's.
        """
        return in_batches(self._run, split_inputs(observation, self._contract), self._contract.batch)

    def _run(self, feed: Outputs) -> Outputs:
        inputs = [feed[spec.name] for spec in self._contract.inputs]
        return run_module(self._module, inputs, [spec.role for spec in self._contract.outputs])


def run_module(module: Callable[[list[Float32]], list[Float32]], inputs: list[Float32], names: list[str]) -> Outputs:
    """Return what a module gives, by the names that its contract gives its outputs.

    Raises:
        ArtifactError: torch refuses to run it, or the number of outputs is not the contract's.
    """
    values = module(inputs)
    if len(values) != len(names):
        raise ArtifactError(f"the module gives {len(values)} outputs, the contract names {len(names)}")
    return dict(zip(names, values, strict=True))


def split_inputs(observation: Float32, contract: Contract) -> dict[str, Float32]:
    """Return the graph's inputs by name for flat observations (n, 6928)."""
    spec = contract.observation
    if spec.layout is InputLayout.FLAT:
        return {contract.input("observation").name: np.ascontiguousarray(observation)}
    depth = observation[:, spec.state_size :].reshape(-1, 1, spec.depth.rows, spec.depth.columns)
    return {
        contract.input("state").name: np.ascontiguousarray(observation[:, : spec.state_size]),
        contract.input("depth").name: np.ascontiguousarray(depth),
    }
