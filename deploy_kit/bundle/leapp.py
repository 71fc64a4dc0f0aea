"""What LEAPP's reader must know of a bundle's graph: `leapp.yaml`, which follows from contract and graph alone.

LEAPP (NVIDIA) describes a pipeline of models in one YAML file: model files with their sha256, inputs and outputs with
shapes and element names, and how they are wired. A bundle's pipeline is one model. LEAPP allocates its buffers by these
shapes, so a batch that the graph leaves free is 1 here.
"""

import hashlib
from typing import Any

import yaml

from deploy_kit.bundle.contract import Contract
from deploy_kit.bundle.contract_fields import TensorSpec
from deploy_kit.bundle.reader import ONNX_NAME

NODE = "policy"
"""Name of the one model in the pipeline."""

CONNECTIONS = {
    "state": "command:policy_state",
    "depth": "command:policy_depth",
    "observation": "command:policy_observation",
    "action": "write:robot:fly",
    "command": "write:robot:fly_command",
}
"""Where `isaaclab leapp deploy` takes an input from and puts an output, by its role: names of command terms, and
methods of the scene's entity `robot`. Our racing task for deployment has them."""

CONFIG_VERSION = "1.3"
"""Version of the description, as leapp 0.7.2 writes it."""


def leapp_description(contract: Contract, graph: bytes) -> dict[str, Any]:
    """Return the description of a bundle's graph.

    Args:
        contract: the bundle's.
        graph: the ONNX file.
    """
    inputs = [_tensor(spec, _input_meaning(spec, contract)) for spec in contract.inputs]
    outputs = [_tensor(spec, _output_meaning(spec, contract)) for spec in contract.outputs]
    return {
        "models": {
            NODE: {
                "inputs": inputs,
                "outputs": outputs,
                "parameters": {
                    "model_path": ONNX_NAME,
                    "md5sum": hashlib.md5(graph, usedforsecurity=False).hexdigest(),
                    "sha256sum": hashlib.sha256(graph).hexdigest(),
                    "backend": "onnx",
                    "opset_version": contract.versions.opset,
                },
            }
        },
        "pipeline": {
            "data_flow": {},
            "feedback_flow": {},
            "inputs": {NODE: [entry["name"] for entry in inputs]},
            "outputs": {NODE: [entry["name"] for entry in outputs]},
            "configs": {"frequency": _frequency(contract)},
        },
        "system information": {
            "leapp config version": CONFIG_VERSION,
            "deploy-kit version": contract.versions.deploy_kit,
            "torch version": contract.versions.torch,
            "python version": contract.versions.python,
        },
    }


def leapp_text(contract: Contract, graph: bytes) -> str:
    """Return `leapp_description` as YAML."""
    return yaml.safe_dump(leapp_description(contract, graph), sort_keys=False, allow_unicode=True, width=120)


def _tensor(spec: TensorSpec, meaning: dict[str, Any]) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else 1 for size in spec.shape]
    described = {"name": spec.name, "dtype": spec.dtype, "shape": shape, "type": "tensor"}
    connection = {"isaaclab_connection": CONNECTIONS[spec.role]} if spec.role in CONNECTIONS else {}
    return {**described, "role": spec.role, "description": spec.description, **connection, **meaning}


def _input_meaning(spec: TensorSpec, contract: Contract) -> dict[str, Any]:
    """Return what the numbers of an input are: LEAPP keeps fields that it does not know, and hands them on."""
    observation = contract.observation
    meaning: dict[str, Any] = {}
    if spec.role in ("state", "observation"):
        names = [
            term.name if term.stop - term.start == 1 else f"{term.name}[{index}]"
            for term in observation.terms
            for index in range(term.stop - term.start)
        ]
        if spec.role == "state":
            meaning["element_names"] = [names]
        meaning["terms"] = [
            {
                "name": term.name,
                "start": term.start,
                "stop": term.stop,
                "quantity": term.quantity,
                "unit": term.unit,
                "frame": term.frame,
                "clip": None if term.clip is None else list(term.clip),
                "scale": None if term.scale is None else list(term.scale),
            }
            for term in observation.terms
        ]
    if spec.role in ("depth", "observation"):
        depth = observation.depth
        meaning["image"] = {
            "start": 0 if spec.role == "depth" else depth.start,
            "rows": depth.rows,
            "columns": depth.columns,
            "order": depth.order,
            "measure": depth.measure,
            "clip_m": depth.clip_m,
            "divisor_m": depth.divisor_m,
            "no_return": depth.no_return,
        }
    return meaning


def _output_meaning(spec: TensorSpec, contract: Contract) -> dict[str, Any]:
    action, gate = contract.action, contract.gate
    if spec.role == "command":
        return {"element_names": [list(action.names)], "units": list(action.units), "frame": action.frame}
    if spec.role == "action":
        return {
            "element_names": [list(action.names)],
            "to_command": {
                "formula": action.formula,
                "scale": list(action.scale),
                "offset": list(action.offset),
                "clip": action.clip,
                "units": list(action.units),
                "frame": action.frame,
            },
        }
    threshold = None
    if gate is not None:
        threshold = gate.threshold_probability if spec.role == "gate_probability" else gate.threshold_logit
    return {"element_names": [[spec.role]], "threshold": threshold}


def _frequency(contract: Contract) -> float:
    period = contract.timing.policy_period_s.value
    assert not isinstance(period, tuple)  # contracts with one each axis are refused when they are opened
    return 1.0 / period
