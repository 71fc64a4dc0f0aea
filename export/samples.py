"""Golden samples: recorded or synthetic observations, with the outputs that the checkpoint's own network gives."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.bundle.reader import GoldenSamples
from deploy_kit.bundle.sampling_range import term_range
from deploy_kit.data.reader import FeatureFile
from deploy_kit.data.rows import Matrix
from deploy_kit.data.schema import KeepReason
from deploy_kit.errors import DatasetError
from deploy_kit.policy.network import VisionActorCritic
from deploy_kit.policy.run.state_term import StateTerm
from deploy_kit.task.interface import ActionTransform

FloatArray = npt.NDArray[np.float32]


def make_golden(
    network: VisionActorCritic,
    observation: FloatArray,
    reason: Sequence[str],
    source: str,
    transform: ActionTransform,
    *,
    gate: bool,
) -> GoldenSamples:
    """Return samples with the network's outputs.

    Args:
        network: the checkpoint's network, not the exported twin.
        observation: (K, 6928).
        reason: why each was chosen.
        source: "recorded" or "synthetic".
        transform: from the unbounded action to the vehicle's command.
        gate: whether the bundle has a gate output.
    """
    with torch.inference_mode():
        output = network(torch.from_numpy(observation))
        terms = network.gate_terms(output.features) if gate else None
    return GoldenSamples(
        observation=observation,
        action=output.action.numpy(),
        command=transform.apply(output.action.double().numpy()).astype(np.float32),
        gate_logit=output.gate_logit.numpy() if gate and output.gate_logit is not None else None,
        gate_terms=None if terms is None else terms.numpy(),
        features=output.features.numpy(),
        reason=np.array(reason, dtype=np.str_),
        source=source,
    )


def write_golden(path: Path, golden: GoldenSamples) -> None:
    """Write samples as an npz file that loads without pickle."""
    arrays = {
        "observation": golden.observation,
        "action": golden.action,
        "command": golden.command,
        "features": golden.features,
        "reason": golden.reason,
        "source": np.array(golden.source),
    }
    if golden.gate_logit is not None and golden.gate_terms is not None:
        arrays |= {"gate_logit": golden.gate_logit, "gate_terms": golden.gate_terms}
    np.savez(path, **arrays)  # type: ignore[arg-type] # numpy's stub takes the arrays for its option allow_pickle


def choose_recorded(file: FeatureFile, observation_size: int, count: int) -> tuple[FloatArray, list[str]]:
    """Choose kept observations: gate passes, stale frames, first steps and ordinary ones, spread over the file.

    Args:
        file: an open feature file.
        observation_size: length of the policy's observation.
        count: how many at most.

    Returns:
        Observations (K, size) and the reason of each, as "gate_pass+stale_image".

    Raises:
        DatasetError: the file has no whole observations, or they have another length.
    """
    kept = file.observations
    if kept is None or not len(kept):
        raise DatasetError(
            f"{file.path} holds no whole observations for golden samples; collect with --keep-observations, "
            "or export without --feature-file"
        )
    if kept.matrix.shape[1] != observation_size:
        raise DatasetError(
            f"{file.path}: observations have {kept.matrix.shape[1]} numbers, the policy takes {observation_size}"
        )
    chosen = _spread_by_reason(kept.reason, count)
    observation = Matrix(kept.matrix.path, kept.matrix.dataset, kept.matrix.index[chosen]).load()
    return observation, [_reason_text(kept.reason[row]) for row in chosen]


def _spread_by_reason(reason: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.int64]:
    bits = [KeepReason.GATE_PASS, KeepReason.STALE_IMAGE, KeepReason.FIRST_STEP]
    groups = [np.flatnonzero(reason & int(bit)) for bit in bits] + [np.flatnonzero(reason == 0)]
    share = -(-count // len(groups))
    chosen: set[int] = set()
    for group in groups:
        picks = np.linspace(0, len(group) - 1, min(share, len(group))).round().astype(int)
        chosen.update(group[picks].tolist())
    rest = [row for row in range(len(reason)) if row not in chosen]
    ordered = sorted(chosen)[:count] + rest[: max(0, count - len(chosen))]
    return np.array(sorted(ordered), dtype=np.int64)


def _reason_text(bits: int) -> str:
    reason = KeepReason(int(bits))
    return "+".join(str(bit.name).lower() for bit in KeepReason if bit and bit in reason) or "ordinary"


def draw_synthetic(
    terms: Sequence[StateTerm], image_shape: tuple[int, int], count: int, seed: int
) -> tuple[FloatArray, list[str]]:
    """Draw observations within the contract's ranges: uniform states, images of noise and of flat patches by turns.

    Args:
        terms: state terms with their ranges.
        image_shape: (rows, columns).
        count: how many.
        seed: seed of the generator.

    Returns:
        Observations (count, size) and the reason of each.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for term in terms:
        size = term.stop - term.start
        values = rng.uniform(*term_range(term), (count, size))
        if term.quantity == "base_orientation" and term.scale is None:
            direction = rng.normal(size=(count, size))
            values = direction / np.linalg.norm(direction, axis=1, keepdims=True)
        columns.append(values)
    rows, width = image_shape
    image = rng.uniform(0.0, 1.0, (count, rows, width))
    patches = rng.uniform(0.0, 1.0, (count, -(-rows // 12), -(-width // 12)))
    flat = np.repeat(np.repeat(patches, 12, axis=1), 12, axis=2)[:, :rows, :width]
    image[::2] = flat[::2]
    observation = np.concatenate([*columns, image.reshape(count, -1)], axis=1).astype(np.float32)
    return observation, ["synthetic patches" if row % 2 == 0 else "synthetic noise" for row in range(count)]
