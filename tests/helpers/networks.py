"""Untrained networks with random weights and statistics."""

import numpy as np
import torch

from deploy_kit.policy.network import ConvSpec, NetworkConfig, VisionActorCritic
from deploy_kit.task.interface import ObservationLayout

SMALL = {
    "layout": ObservationLayout(16, (24, 32)),
    "stem": (ConvSpec(4, 3, 3), ConvSpec(8, 3, 3)),
    "feature_size": 24,
    "actor_hidden": (16, 16),
    "critic_hidden": (8,),
    "normalizer_eps": 1e-2,
}
"""A racing policy with every part (gate head, normaliser), of a size that exports and replays quickly."""

SMALL_OBSERVATION = 16 + 24 * 32

TINY = {
    "layout": ObservationLayout(5, (9, 12)),
    "stem": (ConvSpec(4, 3, 3), ConvSpec(6, 3, 3)),
    "feature_size": 8,
    "actor_hidden": (7, 6),
    "critic_hidden": (5,),
}
"""A policy of another task, for tests of files: 5 numbers of state, 9 x 12 pixels, no normaliser."""


def make_network(seed: int = 0, **changes: object) -> VisionActorCritic:
    """Build a network of the reference size, in eval mode; changes: fields of its `NetworkConfig`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VisionActorCritic(NetworkConfig(**changes))
    randomise_statistics(network, torch.Generator().manual_seed(seed))
    return network.eval().requires_grad_(False)


def small_network(seed: int = 0, **changes: object) -> VisionActorCritic:
    """Build a small racing policy with gate head and normaliser."""
    return make_network(seed, **{**SMALL, **changes})


def tiny_network(seed: int = 0, **changes: object) -> VisionActorCritic:
    """Build a tiny policy of another task."""
    return make_network(seed, **{**TINY, **changes})


def randomise_statistics(network: VisionActorCritic, generator: torch.Generator) -> None:
    """Give batch norms (and the normaliser) non-trivial statistics, so that dropping them shows."""
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(torch.randn(module.num_features, generator=generator) * 0.3)
            module.running_var.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.weight.data.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
            module.bias.data.copy_(torch.randn(module.num_features, generator=generator) * 0.2)
    if network.normalizer is not None:
        network.normalizer.mean.copy_(torch.randn(network.normalizer.mean.shape, generator=generator) * 0.1)
        network.normalizer.std.copy_(torch.rand(network.normalizer.std.shape, generator=generator) + 0.5)


def make_observations(network: VisionActorCritic, rows: int, seed: int = 0) -> np.ndarray:
    """Draw observations of the size of flights: states of a few units, images in [0, 1]."""
    rng = np.random.default_rng(seed)
    layout = network.config.layout
    state = rng.normal(0.0, 3.0, (rows, layout.state_size))
    image = np.clip(rng.uniform(0, 1, (rows, 1)) + 0.2 * rng.standard_normal((rows, layout.image_size)), 0, 1)
    return np.concatenate((state, image), axis=1).astype(np.float32)
