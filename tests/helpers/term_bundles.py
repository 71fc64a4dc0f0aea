"""A small bundle of any policy for the onboard runner, written without the exporter."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import torch

from deploy_kit.bundle.codec import encode
from deploy_kit.bundle.policy_tensors import policy_inputs, policy_outputs
from deploy_kit.export.plan_onnx import plan_model
from deploy_kit.policy.network_hints import NetworkHints
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.protocol import PolicyNetwork, reset_state
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.resolve_task import resolve_task_meaning
from helpers.rsl_rl_files import make_policy, shape_hints

INTERFACE = {
    "policy_period_s": 0.02,
    "observations": {
        "policy": [
            {"name": "gravity", "size": 3, "unit": "1", "frame": "body", "low": -1, "high": 1},
            {"name": "joint_pos", "unit": "rad", "joints": ["a", "b"], "offset": [-0.5, 1.0], "scale": [2.0, 3.0]},
            {"name": "gyro", "size": 1, "unit": "rad/s", "clip": [-4, 4], "scale": 0.25, "history": 3},
            {"name": "actions", "quantity": "last_action", "size": 3},
        ]
    },
    "actions": {
        "joints": ["b", "c", "a"],
        "unit": "rad",
        "scale": [0.1, 0.2, 0.3],
        "offset": [1.0, 2.0, 3.0],
        "clip": [[-9, 9], [-9, 2.01], [-9, 9]],
    },
}
"""What the 11 numbers of the group "policy" of "mlp", "lstm" and "gru", and their 3 actions, mean."""

LIMIT = 0.2


def write_bundle(folder: Path, kind: str, interface: dict | None = INTERFACE, **changes) -> PolicyNetwork:
    """Write a bundle with a head; return the network that it holds.

    Args:
        folder: folder of the bundle.
        kind: kind of `helpers.rsl_rl_files`.
        interface: what the run's interface.yaml says, None for none.
        changes: fields of the contract to replace.
    """
    made = make_policy(folder.with_name(f"{folder.name}-run"), kind)
    network = load_policy(made.path, NetworkHints(observation_shapes=shape_hints(kind))).network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network.head = torch.nn.Linear(network.spec.feature_size, 1).requires_grad_(False)
    spec = network.spec
    params = RunParams(agent={"clip_actions": LIMIT}, interface=interface)
    inputs, outputs = policy_inputs(spec, None), policy_outputs(spec, None, head=True)
    contract = {
        "kind": "policy",
        "schema_version": 1,
        "inputs": encode(inputs),
        "outputs": encode(outputs),
        "groups": [{"name": group.name, "shape": list(group.shape), "normalised": True} for group in spec.groups],
        "state": [
            {"input": item.input, "output": item.output, "layers": item.layers, "hidden": item.hidden, "reset": "zeros"}
            for item in spec.state
        ],
        "head": {
            "threshold_logit": 0.1,
            "policy_period_s": 0.02,
            "detector": {
                **{"threshold_logit": 0.1, "release_logit": 0.0, "refractory_steps": 2, "tolerance_steps": 1},
                **{"slope_gain": 0.0, "slope_steps": 0, "slope_rise": 0.0},
            },
        },
        "network": {"num_actions": spec.num_actions},
        "task": None if interface is None else encode(resolve_task_meaning(params, spec.groups, spec.num_actions)),
        **changes,
    }
    contract = json.loads(json.dumps(contract))
    model = plan_model(network.plan(), network.head, inputs, outputs, 18)
    onnx.helper.set_model_props(model, {"deploy_kit_contract": json.dumps(contract)})
    folder.mkdir(parents=True)
    (folder / "policy.onnx").write_bytes(model.SerializeToString())
    (folder / "contract.json").write_text(json.dumps(contract))
    np.savez(folder / "golden.npz", **golden_arrays(network))
    write_manifest(folder)
    return network


def golden_arrays(network: PolicyNetwork, steps: int = 5, episodes: int = 3) -> dict[str, np.ndarray]:
    """Return sequences with resets inside, as the exporter writes them."""
    rng = np.random.default_rng(0)
    reset = np.zeros((steps, episodes), bool)
    reset[0], reset[3, 1] = True, True
    arrays = {
        f"obs/{group.name}": rng.normal(1.5, 3.0, (steps, episodes, *group.shape)).astype(np.float32)
        for group in network.spec.groups
    }
    state, found = network.initial_state(episodes), {"actions": [], "head_logit": [], "head_terms": []}
    for step in range(steps):
        state = reset_state(state, torch.from_numpy(reset[step]))
        groups = {group.name: torch.from_numpy(arrays[f"obs/{group.name}"][step]) for group in network.spec.groups}
        with torch.no_grad():
            given = network(groups, state)
            found["head_terms"].append(network.head_terms(given.features).numpy())
        state = given.state
        found["actions"].append(given.action.numpy())
        found["head_logit"].append(given.head_logit.numpy())
    return {**arrays, "reset": reset, **{name: np.stack(values) for name, values in found.items()}}


def write_manifest(folder: Path) -> None:
    """Write a manifest of the files as they are."""
    names = ("policy.onnx", "contract.json", "golden.npz")
    files = {
        name: {
            "size": (folder / name).stat().st_size,
            "sha256": hashlib.sha256((folder / name).read_bytes()).hexdigest(),
        }
        for name in names
    }
    (folder / "manifest.json").write_text(json.dumps({"manifest_version": 1, "files": files}))
