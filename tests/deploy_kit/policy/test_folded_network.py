import pytest
import torch

from deploy_kit.bundle.thresholds import FP32_PARITY
from deploy_kit.policy.folded_network import FoldedNetwork
from helpers.networks import make_network, make_observations, small_network


def largest_share(error, reference):
    """Return which share of what verify allows is used up."""
    return float((error.abs() / (FP32_PARITY.absolute + FP32_PARITY.relative * reference.abs())).max())


@pytest.mark.parametrize("changes", [{}, {"normalizer_eps": 1e-2}, {"activation": "elu"}, {"activation": "tanh"}])
def test_outputs_are_within_verifys_limits(changes):
    network = make_network(3, **changes)
    observation = torch.from_numpy(make_observations(network, 300))
    with torch.inference_mode():
        expected, output = network(observation), FoldedNetwork(network)(observation)
        assert largest_share(output.action - expected.action, expected.action) < 1
        assert largest_share(output.features - expected.features, expected.features) < 1
        assert largest_share(output.gate_logit - expected.gate_logit, network.gate_terms(expected.features)) < 1


def test_the_network_itself_stays_as_it_is():
    network = small_network(1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    observation = torch.from_numpy(make_observations(network, 3))
    expected = network(observation)
    FoldedNetwork(network)(observation)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(value.dtype == before[name].dtype for name, value in network.state_dict().items())
    assert torch.equal(network(observation).action, expected.action)


def test_a_network_without_gate_head_has_no_logit():
    network = small_network(1, gate_head=False)
    assert FoldedNetwork(network)(torch.from_numpy(make_observations(network, 2))).gate_logit is None


def test_a_network_in_training_mode_is_folded_by_its_running_statistics():
    network = small_network(1)
    observation = torch.from_numpy(make_observations(network, 4))
    with torch.inference_mode():
        expected = network(observation)
        output = FoldedNetwork(network.train())(observation)
    assert largest_share(output.action - expected.action, expected.action) < 1
    assert network.training
