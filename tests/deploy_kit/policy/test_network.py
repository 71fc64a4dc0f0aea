from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rsl_rl.modules.normalization import EmpiricalNormalization
from rsl_rl.utils import resolve_nn_activation
from torch.nn import functional

from deploy_kit.policy.network import ACTIVATIONS, VisionActorCritic
from deploy_kit.task.interface import STATE_TERMS, ActionTransform, ObservationLayout
from helpers.networks import tiny_network


def numpy_forward(network, observation):
    """The network's formula in float64, from its state dict alone."""
    s = {name: tensor.double() for name, tensor in network.state_dict().items()}
    x = observation.double()
    if network.normalizer is not None:
        x = (x - s["normalizer.mean"]) / (s["normalizer.std"] + network.config.normalizer_eps)
    layout = network.config.layout
    state, image = x[:, : layout.state_size], x[:, layout.state_size :].reshape(-1, 1, *layout.image_shape)
    for index, block in enumerate(network.config.stem):
        n = 3 * index + 1
        image = functional.conv2d(image, s[f"stem.{3 * index}.weight"], stride=block.stride)
        shape = (1, -1, 1, 1)
        image = (image - s[f"stem.{n}.running_mean"].view(shape)) / (
            s[f"stem.{n}.running_var"].view(shape) + 1e-5
        ).sqrt()
        image = image * s[f"stem.{n}.weight"].view(shape) + s[f"stem.{n}.bias"].view(shape)
        image = torch.where(image > 0, image, 0.01 * image)
    last = 3 * len(network.config.stem) + 1
    fused = image.flatten(1) @ s[f"stem.{last}.weight"].T + s[f"stem.{last}.bias"]
    fused = fused + state @ s["state_enc.weight"].T + s["state_enc.bias"]
    features = torch.where(fused > 0, fused, 0.01 * fused)
    action = features
    for n in (0, 2, 4):
        action = action @ s[f"actor.{n}.weight"].T + s[f"actor.{n}.bias"]
        if n < 4:
            action = torch.where(action > 0, action, 0.01 * action)
    return action, features @ s["aux_decoder.weight"].T + s["aux_decoder.bias"], features


@pytest.mark.parametrize("eps", [None, 1e-2])
def test_the_forward_pass_is_the_documented_formula(eps):
    network = tiny_network(normalizer_eps=eps)
    observation = torch.rand(6, network.config.layout.size, generator=torch.Generator().manual_seed(0)) * 4 - 2
    output = network(observation)
    action, logit, features = numpy_forward(network, observation)
    torch.testing.assert_close(output.action.double(), action, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.gate_logit.double(), logit, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.features.double(), features, atol=1e-5, rtol=1e-5)


def test_the_normaliser_is_rsl_rls():
    network = tiny_network(normalizer_eps=1e-2)
    layout = network.config.layout
    theirs = EmpiricalNormalization(layout.size)
    theirs.update(torch.randn(50, layout.size, generator=torch.Generator().manual_seed(3)) * 2 + 1)
    theirs.eval()
    network.normalizer.mean.copy_(theirs._mean)
    network.normalizer.std.copy_(theirs._std)
    observation = torch.rand(4, layout.size, generator=torch.Generator().manual_seed(4))
    state, depth = network.normalizer(*network.split(observation))
    assert torch.equal(torch.cat([state, depth.flatten(1)], 1), theirs(observation))


def test_activation_names_are_rsl_rls():
    x = torch.linspace(-3, 3, 25)
    for name, activation in ACTIVATIONS.items():
        assert torch.equal(activation()(x), resolve_nn_activation(name)(x)), name
    with pytest.raises(ValueError, match="Valid activations are") as caught:
        resolve_nn_activation("unknown")
    assert all(f"'{name}'" in str(caught.value) for name in ACTIVATIONS)
    assert str(caught.value).count("', '") == len(ACTIVATIONS) - 1


def test_images_are_row_major_top_row_first():
    network = tiny_network()
    observation = torch.arange(float(network.config.layout.size)).unsqueeze(0)
    state, depth = network.split(observation)
    assert state[0].tolist() == [0, 1, 2, 3, 4]
    assert depth.shape == (1, 1, 9, 12)
    assert depth[0, 0, 0, 1] == 6
    assert depth[0, 0, 1, 0] == 5 + 12


def test_the_state_terms_cover_the_state_in_order():
    layout = ObservationLayout()
    assert layout.size == 6928
    assert [(term.start, term.stop) for term in layout.terms] == [(0, 3), (3, 6), (6, 9), (9, 12), (12, 16)]
    for term in STATE_TERMS:
        assert len(term.low) == len(term.high) == term.size
        assert all(low < high for low, high in zip(term.low, term.high, strict=True))
    assert ObservationLayout(17).terms == ()


def test_action_transform_keeps_precision_and_order():
    transform = ActionTransform.from_limits(3.0, (6.0, 5.0, 4.0))
    action = np.array([[0.5, -0.25, 0.0, 1.0]], np.float32)
    command = transform.apply(action)
    assert command.dtype == np.float32
    expected = np.tanh(action[0]) * [14.715, 6, 5, 4] + [14.715, 0, 0, 0]
    np.testing.assert_allclose(command[0], expected, rtol=1e-6)


def test_the_terms_of_the_gate_logit():
    features = torch.tensor([[1.0, -2.0]])
    network = SimpleNamespace(aux_decoder=torch.nn.Linear(2, 1))
    network.aux_decoder.weight.data[:] = torch.tensor([[3.0, 1.5]])
    network.aux_decoder.bias.data[:] = -0.25
    # 3 − 3 − 0.25: the logit is small, its terms are not.
    assert VisionActorCritic.gate_terms(network, features).item() == 6.25
