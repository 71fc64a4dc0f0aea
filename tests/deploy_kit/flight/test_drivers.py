import numpy as np
import pytest
import torch

from deploy_kit.flight.drivers import ArtifactDriver
from deploy_kit.task.interface import ActionTransform

TRANSFORM = ActionTransform.from_limits(3.0, 6.0)


def drive(**outputs):
    return ArtifactDriver(lambda observation: outputs, TRANSFORM)(torch.zeros(len(next(iter(outputs.values()))), 6928))


def test_network_actions_and_logits_pass_through():
    action = np.array([[0.1, -2.0, 3.0, 0.0]], np.float32)
    output = drive(action=action, gate_logit=np.array([[1.5]], np.float32))
    np.testing.assert_array_equal(output.action.numpy(), action)
    assert output.gate_logit.item() == 1.5
    assert output.features.shape == (1, 0)


def test_physical_commands_become_actions_that_command_the_same():
    action = np.array([[0.0, -1.0, 2.5, 0.3], [4.0, -4.0, 40.0, -40.0]], np.float32)
    command = TRANSFORM.apply(action)
    output = drive(command=command)
    np.testing.assert_allclose(output.action.numpy()[0], action[0], atol=1e-5)
    # Saturated commands cannot be undone, but what the environment makes of the result is the same command.
    assert np.isfinite(output.action.numpy()).all()
    np.testing.assert_allclose(TRANSFORM.apply(output.action.numpy()), command, atol=2e-5)
    assert output.gate_logit is None


def test_probabilities_become_logits():
    output = drive(action=np.zeros((2, 4), np.float32), gate_probability=np.array([[0.25], [1.0]], np.float32))
    assert output.gate_logit[0].item() == pytest.approx(np.log(0.25 / 0.75), abs=1e-6)
    assert torch.isfinite(output.gate_logit).all()
