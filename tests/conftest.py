"""Fixtures that every room's tests share."""

import os
from pathlib import Path

import pytest
import torch

from deploy_kit.policy.network import NetworkConfig, VisionActorCritic
from deploy_kit.policy.shipped import DEMO_POLICY


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


def make_network(seed: int = 0, **changes: object) -> VisionActorCritic:
    """Build an untrained network of the reference size with random weights, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = VisionActorCritic(NetworkConfig(**changes))
    randomise_statistics(network, torch.Generator().manual_seed(seed))
    return network.eval().requires_grad_(False)


@pytest.fixture
def network() -> VisionActorCritic:
    return make_network()


@pytest.fixture(scope="session")
def shipped_policy() -> Path:
    """File of the policy that comes with deploy-kit."""
    return DEMO_POLICY


@pytest.fixture(scope="session")
def reference_run() -> Path:
    """Folder of the reference training run (``stage1_run``)."""
    folder = Path(os.environ.get("DEPLOY_KIT_REFERENCE", Path(__file__).resolve().parents[2] / "shared" / "reference"))
    if not (folder / "stage1_run" / "model_7998.pt").is_file():
        pytest.skip(f"the reference run is not at {folder}; set DEPLOY_KIT_REFERENCE to its folder")
    return folder / "stage1_run"
