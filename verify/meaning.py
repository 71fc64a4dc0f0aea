"""What the bundle says about itself, held against the checkpoint and the vehicle's numbers."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from deploy_kit.bundle.reader import Bundle, Contract
from deploy_kit.policy.checkpoint import Checkpoint
from deploy_kit.policy.fingerprint import feature_sha256, head_sha256
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.run.vehicle import Vehicle
from deploy_kit.task.interface import ACTION_NAMES, ACTION_UNITS
from deploy_kit.task.racing import DEPTH_RANGE_M
from deploy_kit.verify.report import FactCheck

Facts = Iterator[tuple[str, Any, Any]]
"""(what, found in the bundle, expected of the checkpoint)."""

NOT_EXPORTED = ("critic.", "normalizer.count", "std")
"""Prefixes of tensors that play no part in what is exported."""


def contract_checks(bundle: Bundle, checkpoint: Checkpoint) -> list[FactCheck]:
    """Return the checks of the contract against the checkpoint, without the vehicle's numbers."""
    contract = bundle.contract
    return [
        _check("contract/provenance", "hashes against the checkpoint", _provenance(bundle, checkpoint)),
        _check("contract/observation", "order, units, ranges against the policy", _observation(contract, checkpoint)),
        _check("contract/normalizer", "normaliser against the checkpoint", _normalizer(contract, checkpoint)),
        _check("contract/network", "shape against the checkpoint", _network(contract, checkpoint)),
        _check("contract/gate", "threshold, labels against the checkpoint", _gate(contract, checkpoint)),
    ]


def checkpoint_check(contract: Contract, checkpoint: Checkpoint, weights: FactCheck) -> FactCheck:
    """Return the check of the checkpoint file's hash; another file with the same tensors passes, and is named.

    Args:
        contract: names the file that was exported.
        checkpoint: the file that the user gave.
        weights: the comparison of all tensors.
    """
    compared = f"{checkpoint.path.name} against the file that was exported"
    if contract.provenance.checkpoint_sha256 == checkpoint.sha256:
        return FactCheck("contract/checkpoint", compared, 1, ())
    claimed = f"{contract.provenance.checkpoint} (sha256 {contract.provenance.checkpoint_sha256[:12]}…)"
    if weights.problems:
        problem = f"the bundle comes from {claimed}, this checkpoint is {checkpoint.sha256[:12]}… and has other tensors"
        return FactCheck("contract/checkpoint", compared, 1, (problem,))
    note = f"the bundle comes from {claimed}, another file than this one, with the same tensors"
    return FactCheck("contract/checkpoint", compared, 1, (), note)


def weights_check(rebuilt: VisionActorCritic, checkpoint: Checkpoint) -> FactCheck:
    """Return the comparison of the safetensors file with the checkpoint, tensor by tensor, bit by bit."""
    expected, found = _exported_tensors(checkpoint.network), _exported_tensors(rebuilt)
    if rebuilt.aux_decoder is None:
        expected = {name: tensor for name, tensor in expected.items() if not name.startswith("aux_decoder.")}
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is not in the checkpoint" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        ours, theirs = expected[name], found[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            problems.append(
                f"{name} is {theirs.dtype} {tuple(theirs.shape)}, expected {ours.dtype} {tuple(ours.shape)}"
            )
        elif not torch.equal(ours, theirs):
            differs = (ours != theirs).flatten()
            largest = float((ours.double() - theirs.double()).abs().nan_to_num(math.inf).max())
            problems.append(f"{name} differs in {int(differs.sum())} of {ours.numel()} values, by up to {largest:.3g}")
    for key in ("layout", "stem", "activation", "normalizer_eps"):
        if (ours_value := getattr(checkpoint.network.config, key)) != (theirs_value := getattr(rebuilt.config, key)):
            problems.append(f"{key} is {theirs_value}, the checkpoint has {ours_value}")
    return FactCheck("safetensors/tensors", "every tensor, bit by bit", len(expected), tuple(sorted(problems)))


def vehicle_checks(contract: Contract, vehicle: Vehicle) -> list[FactCheck]:
    """Return the checks of the contract's action transform, rates and vehicle against the vehicle's numbers."""
    return [
        _check("contract/action", f"action transform against {vehicle.source}", _action(contract, vehicle)),
        _check("contract/timing", f"rates, latency against {vehicle.source}", _timing(contract, vehicle)),
        _check("contract/vehicle", f"numbers, sources against {vehicle.source}", _vehicle(contract, vehicle)),
    ]


def base_source(source: str) -> str:
    """Return where a number came from, without the remark on what it replaced."""
    return source.partition(" (")[0]


def _exported_tensors(network: VisionActorCritic) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not name.startswith(NOT_EXPORTED) and not name.endswith("num_batches_tracked")
    }


def _check(name: str, compared: str, facts: Facts) -> FactCheck:
    listed = list(facts)
    problems = tuple(
        f"{what} is {_shown(found)}, expected {_shown(expected)}"
        for what, found, expected in listed
        if not _equal(found, expected)
    )
    return FactCheck(name, compared, len(listed), problems)


def _equal(found: Any, expected: Any) -> bool:
    """Compare; numbers to the last digits of a double, since sums may be written in another order."""
    if isinstance(found, tuple) and isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(_equal, found, expected))
    if isinstance(found, float) or (isinstance(expected, float) and isinstance(found, int)):
        return isinstance(expected, (int, float)) and math.isclose(found, expected, rel_tol=1e-12, abs_tol=0.0)
    return bool(found == expected)


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _provenance(bundle: Bundle, checkpoint: Checkpoint) -> Facts:
    provenance = bundle.contract.provenance
    network = checkpoint.network
    yield "feature_sha256", provenance.feature_sha256, feature_sha256(network)
    if network.aux_decoder is not None or provenance.head_sha256 is not None:
        yield "head_sha256", provenance.head_sha256, None if network.aux_decoder is None else head_sha256(network)
    yield "weights_sha256", provenance.weights_sha256, bundle.files[bundle.safetensors_path.name]
    yield "iteration", provenance.iteration, checkpoint.iteration


def _observation(contract: Contract, checkpoint: Checkpoint) -> Facts:
    layout, spec = checkpoint.network.config.layout, contract.observation
    yield "size", spec.size, layout.size
    yield "state size", spec.state_size, layout.state_size
    yield "depth shape", (spec.depth.rows, spec.depth.columns), layout.image_shape
    yield "depth start", spec.depth.start, layout.state_size
    yield "depth clip_m", spec.depth.clip_m, DEPTH_RANGE_M
    yield "depth divisor_m", spec.depth.divisor_m, DEPTH_RANGE_M
    yield "depth range", (spec.depth.low, spec.depth.high), (0.0, 1.0)
    if layout.terms:
        yield "terms", tuple(term.name for term in spec.terms), tuple(term.name for term in layout.terms)
        for found, expected in zip(spec.terms, layout.terms, strict=False):
            wanted = asdict(expected)
            for key, value in asdict(found).items():
                yield f"{found.name}.{key}", value, wanted[key]


def _normalizer(contract: Contract, checkpoint: Checkpoint) -> Facts:
    spec, eps = contract.observation.normalizer, checkpoint.network.config.normalizer_eps
    yield "normaliser", "present" if spec else "absent", "absent" if eps is None else "present"
    if spec is not None and eps is not None:
        yield "epsilon", spec.eps, eps
        yield "inside_graph", spec.inside_graph, True


def _network(contract: Contract, checkpoint: Checkpoint) -> Facts:
    config, spec = checkpoint.network.config, contract.network
    yield "stem", spec.stem, tuple(tuple(block) for block in config.stem)
    for key in ("feature_size", "actor_hidden", "num_actions", "activation"):
        yield key, getattr(spec, key), getattr(config, key)


def _gate(contract: Contract, checkpoint: Checkpoint) -> Facts:
    gate, calibration = contract.gate, checkpoint.calibration
    if gate is None:
        return
    yield "gate head", "present", "absent" if checkpoint.network.aux_decoder is None else "present"
    threshold = None if calibration is None else calibration.threshold_logit
    yield "threshold_logit", gate.threshold_logit, threshold
    probability = None if gate.threshold_logit is None else 1.0 / (1.0 + math.exp(-gate.threshold_logit))
    yield "threshold_probability", gate.threshold_probability, probability
    if calibration is not None:
        for key in ("rule", "label_rule", "label_offset_steps", "base_rate", "dataset_sha256", "metrics", "training"):
            yield key, getattr(gate, key), getattr(calibration, key)


def _action(contract: Contract, vehicle: Vehicle) -> Facts:
    transform = vehicle.action_transform
    yield "names", contract.action.names, ACTION_NAMES
    yield "units", contract.action.units, ACTION_UNITS
    yield "scale", contract.action.scale, transform.scale
    yield "offset", contract.action.offset, transform.offset


def _timing(contract: Contract, vehicle: Vehicle) -> Facts:
    for key in ("policy_period_s", "depth_period_s", "action_latency_steps"):
        stated = getattr(contract.timing, key)
        yield key, None if stated is None else stated.value, getattr(vehicle, key)


def _vehicle(contract: Contract, vehicle: Vehicle) -> Facts:
    for key, source in vehicle.sources.items():
        stated = contract.vehicle.get(key)
        if stated is None:
            continue
        yield key, stated.value, getattr(vehicle, key)
        yield f"{key}'s source", base_source(stated.source), source
