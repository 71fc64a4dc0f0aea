"""Golden sequences: whole episodes of synthetic observations, with what the checkpoint's network gives."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch

from deploy_kit.bundle.policy_reader import GoldenSequences
from deploy_kit.policy.protocol import PolicyNetwork, PolicySpec, reset_state

Float32 = npt.NDArray[np.float32]

LENGTH = 16
"""Steps of each sequence."""

_MEMORY = 0.8
"""Share of a number that the next step keeps."""

_RESETS = 0.1
"""Share of steps at which an episode begins anew."""


def draw_sequences(
    spec: PolicySpec, usual: Mapping[str, tuple[Float32, Float32]], count: int, seed: int
) -> tuple[dict[str, Float32], npt.NDArray[np.bool_]]:
    """Draw sequences that change slowly, with resets inside.

    Args:
        spec: the policy's groups.
        usual: mean and deviation of the numbers of each flat group, where the policy knows them; 0 and 1 elsewhere.
        count: how many observations in all, at least.
        seed: seed of the generator.

    Returns:
        Observations (T, N, …) of each group, and whether an episode begins, (T, N).
    """
    rng = np.random.default_rng(seed)
    episodes = max(2, -(-count // LENGTH))
    observation: dict[str, Float32] = {}
    for group in spec.groups:
        noise = rng.standard_normal((LENGTH, episodes, *group.shape))
        for step in range(1, LENGTH):
            noise[step] = _MEMORY * noise[step - 1] + np.sqrt(1 - _MEMORY**2) * noise[step]
        if len(group.shape) == 3:
            values = np.clip(0.5 + 0.25 * noise, 0.0, 1.0)
        else:
            mean, deviation = usual.get(group.name, (np.float32(0), np.float32(1)))
            values = mean + deviation * noise
        observation[group.name] = values.astype(np.float32)
    reset = rng.random((LENGTH, episodes)) < _RESETS
    reset[0] = True
    reset[LENGTH // 2, ::2] = True
    return observation, reset


def run_sequences(
    network: PolicyNetwork, observation: dict[str, Float32], reset: npt.NDArray[np.bool_], source: str, *, head: bool
) -> GoldenSequences:
    """Return sequences with the network's outputs.

    Args:
        network: the checkpoint's network.
        observation: (T, N, …) of each group.
        reset: (T, N), where an episode begins.
        source: "recorded" or "synthetic".
        head: whether the bundle gives the head's logit.
    """
    steps, episodes = reset.shape
    state = network.initial_state(episodes)
    given: dict[str, list[Float32]] = {}
    with torch.inference_mode():
        for step in range(steps):
            state = reset_state(state, torch.from_numpy(reset[step]))
            output = network({name: torch.from_numpy(values[step]) for name, values in observation.items()}, state)
            state = output.state
            found = {"actions": output.action, "features": output.features}
            if head and output.head_logit is not None:
                found |= {"head_logit": output.head_logit, "head_terms": network.head_terms(output.features)}
            found |= {item.output: tensor for item, tensor in zip(network.spec.state, state, strict=True)}
            for name, tensor in found.items():
                given.setdefault(name, []).append(tensor.numpy().copy())
    arrays = {name: np.stack(values) for name, values in given.items()}
    return GoldenSequences(
        observation=observation,
        reset=reset,
        actions=arrays["actions"],
        features=arrays["features"],
        head_logit=arrays.get("head_logit"),
        head_terms=arrays.get("head_terms"),
        state={item.output: arrays[item.output] for item in network.spec.state},
        source=source,
    )
