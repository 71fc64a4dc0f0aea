import copy

import numpy as np
import pytest
import torch

from deploy_kit.bundle.contract_fields import GateOutput
from deploy_kit.bundle.reader import manifest_text
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.onboard import OnboardFault, OnboardPolicy
from deploy_kit.onboard.guards import check_depth
from deploy_kit.policy.checkpoint import save_safetensors
from deploy_kit.sim.options import EnvOptions
from deploy_kit.sim.registry import make_env
from deploy_kit.task.interface import ActionTransform
from deploy_kit.task.racing import TASK_ID
from deploy_kit.verify.verifier import VerifyOptions, verify_bundle
from helpers.checkpoints import CALIBRATION

TRANSFORM = ActionTransform.from_limits(3.0, 6.0)
ZERO_ACTION = np.array([1.5 * 9.81, 0.0, 0.0, 0.0])


def sample(seed=0):
    rng = np.random.default_rng(seed)
    state = np.concatenate([rng.normal(size=3), [0.0, 0.0, 1.0], rng.normal(size=6)])
    return state, rng.uniform(0.2, 14.0, (72, 96))


def reference(network, state, depth):
    image = np.minimum(depth, 10.0) / 10.0
    observation = np.concatenate([state, image.reshape(-1)]).astype(np.float32)
    with torch.inference_mode():
        output = network(torch.from_numpy(observation[None]))
    command = TRANSFORM.apply(output.action[0].double().numpy())
    return command, float(torch.sigmoid(output.gate_logit))


@pytest.mark.parametrize("kind", ["plain", "ready"])
def test_a_step_gives_the_checkpoints_command_from_metres(bundles, policy_network, kind):
    policy = OnboardPolicy(getattr(bundles, kind))
    for seed in range(5):
        state, depth = sample(seed)
        whole = np.concatenate([state, [12.0, 1.0, -2.0, 3.0]])
        command, probability = reference(policy_network, whole, depth)
        output = policy.step(whole, depth)
        np.testing.assert_allclose(output.command, command, rtol=1e-5, atol=1e-4)
        assert output.gate_probability == pytest.approx(probability, abs=1e-5)
        assert output.gate_passed == (probability >= 1 / (1 + np.exp(0.25)))


def test_both_decisions_occur_and_the_threshold_is_inclusive(bundles):
    def decide(policy, value):
        policy._infer = lambda state, image: (np.zeros(4), value)
        policy.reset()
        return policy.step(*sample(0)).gate_passed

    assert [decide(OnboardPolicy(bundles.plain), value) for value in (-0.26, -0.25, 0.0)] == [False, True, True]
    threshold = 1 / (1 + np.exp(0.25))
    ready = OnboardPolicy(bundles.ready)
    assert [decide(ready, value) for value in (threshold - 1e-9, threshold + 1e-9)] == [False, True]


@pytest.mark.parametrize("kind", ["plain", "ready"])
def test_a_passage_is_announced_once(bundles, kind):
    policy = OnboardPolicy(getattr(bundles, kind))
    # Threshold -0.25, release -2.25, ten steps of rest.
    logits = [-9.0, 0.0, 0.5, -1.0, 0.5] + 8 * [-3.0] + [1.0, 1.0, -2.0, 1.0] + 12 * [-2.3] + [1.0]
    values = [1 / (1 + np.exp(-value)) for value in logits] if kind == "ready" else logits
    outputs = []
    for value in values:
        policy._infer = lambda state, image, value=value: (np.zeros(4), value)
        outputs.append(policy.step(*sample(0)))
    assert [step for step, output in enumerate(outputs) if output.gate_event] == [1, 13, 29]
    assert sum(output.gate_passed for output in outputs) == 7
    policy.reset()
    assert policy.step(*sample(0)).gate_event


def test_a_refused_step_does_not_count_for_the_detector(bundles):
    policy = OnboardPolicy(bundles.plain)
    policy._infer = lambda state, image: (np.zeros(4), 1.0)
    state, depth = sample(0)
    with pytest.raises(OnboardFault):
        policy.step(state * np.nan, depth)
    assert policy.step(state, depth).gate_event


@pytest.mark.parametrize("kind", ["plain", "ready"])
def test_the_acting_command_comes_two_steps_late(bundles, policy_network, kind):
    policy = OnboardPolicy(getattr(bundles, kind))
    history = [ZERO_ACTION, ZERO_ACTION]
    for step in range(6):
        state, depth = sample(step)
        wanted, _ = reference(policy_network, np.concatenate([state, history[step]]), depth)
        command = policy.step(state, depth).command
        np.testing.assert_allclose(command, wanted, rtol=1e-5, atol=1e-4)
        history.append(command)
    policy.reset()
    state, depth = sample(0)
    np.testing.assert_allclose(
        policy.step(state, depth).command,
        reference(policy_network, np.concatenate([state, ZERO_ACTION]), depth)[0],
        rtol=1e-5,
        atol=1e-4,
    )


def test_it_flies_the_simulator_as_the_checkpoint_would(bundles, policy_network):
    """What the runner makes of the state without `last_action` is what the simulator's whole observation gives."""
    policy = OnboardPolicy(bundles.plain)
    env = make_env(EnvOptions(num_envs=1, seed=3, stage=0, tracks=("circular",), obstacles=False, num_threads=1))
    observation = env.get_observations()["policy"]
    for _ in range(30):
        row = observation[0].double().numpy()
        output = policy.step(row[:12], row[16:].reshape(72, 96) * 10.0)
        with torch.inference_mode():
            action = policy_network(observation).action
        np.testing.assert_allclose(output.command, TRANSFORM.apply(action[0].double().numpy()), rtol=1e-4, atol=1e-3)
        tensors, _, done, _ = env.step(action)
        observation = tensors["policy"]
        if done.any():
            policy.reset()
    env.close()


@pytest.mark.parametrize("value", [np.inf, 10.0, 10.5, 1e30])
def test_no_return_reads_as_ten_metres(bundles, value):
    policy = OnboardPolicy(bundles.plain)
    state, depth = sample()
    whole = np.concatenate([state, ZERO_ACTION])
    depth[3, 4] = 10.0
    wanted = policy.step(whole, depth).command
    depth[3, 4] = value
    np.testing.assert_array_equal(policy.step(whole, depth).command, wanted)


def test_metres_become_the_networks_image(bundles):
    depth = np.full((72, 96), 2.5)
    depth[0, 1], depth[71, 95], depth[5, 5] = 0.1, 10.0, np.inf
    image = check_depth(OnboardPolicy(bundles.plain).contract, False, depth)
    assert image.dtype == np.float32
    assert (image[0, 1], image[71, 95], image[5, 5], image[9, 9]) == (np.float32(0.1) / 10, 1.0, 1.0, 0.25)
    assert depth[5, 5] == np.inf, "the caller's image is not touched"


def test_zero_reads_as_no_return_only_if_asked_for(bundles):
    from deploy_kit.onboard import OnboardOptions

    state, depth = sample()
    whole = np.concatenate([state, ZERO_ACTION])
    depth[10:60, 10:60] = 10.0
    wanted = OnboardPolicy(bundles.plain).step(whole, depth).command
    depth[10:60, 10:60] = 0.0
    asked = OnboardPolicy(bundles.plain, OnboardOptions(zero_is_no_return=True)).step(whole, depth).command
    np.testing.assert_array_equal(asked, wanted)
    plain = OnboardPolicy(bundles.plain).step(whole, depth).command
    assert np.abs(plain - wanted).max() > 1e-3


def test_self_check_is_reported(bundles):
    assert 0 <= OnboardPolicy(bundles.plain).self_check < 1
    assert OnboardPolicy(bundles.plain / "policy.onnx").contract.inputs == ("state", "depth")


@pytest.mark.parametrize("output", GateOutput)
def test_a_gate_head_whose_terms_cancel_is_judged_by_their_size_from_export_to_drone(
    bundles, policy_network, tmp_path, output
):
    network = copy.deepcopy(policy_network)
    weight = network.aux_decoder.weight
    weight *= 3e4
    with np.load(bundles.plain / "golden.npz") as archive:
        # The first sample's logit is 0 but for rounding.
        network.aux_decoder.bias[:] = -(torch.from_numpy(archive["features"][0]) @ weight[0])
    save_safetensors(tmp_path / "policy.safetensors", network, 1, CALIBRATION)
    options = {"use_auxiliary_head": True, "task": TASK_ID, "gate_output": output, "num_golden": 4}
    export_bundle(ExportOptions(tmp_path / "policy.safetensors", output=tmp_path / "bundle", **options))
    checkpoint = tmp_path / "policy.safetensors"
    report = verify_bundle(VerifyOptions(tmp_path / "bundle", checkpoint, replay=False, live=False))
    golden = [verdict for verdict in report.verdicts if verdict.name.startswith(("golden/", "replay/golden"))]
    assert {verdict.status for verdict in golden} == {"passed"}
    assert OnboardPolicy(tmp_path / "bundle").self_check < 1

    with np.load(tmp_path / "bundle" / "golden.npz") as archive:
        arrays = dict(archive)
    np.testing.assert_allclose(
        arrays["gate_terms"][:, 0],
        np.abs(arrays["features"]) @ np.abs(weight.numpy()[0]) + abs(float(network.aux_decoder.bias)),
        rtol=1e-5,
    )
    if output is GateOutput.LOGIT:
        # Measured as if its terms were small, the same head is refused.
        np.savez(tmp_path / "bundle" / "golden.npz", **{**arrays, "gate_terms": np.zeros_like(arrays["gate_terms"])})
        (tmp_path / "bundle" / "manifest.json").write_text(manifest_text(tmp_path / "bundle"))
        with pytest.raises(OnboardFault, match="do not fly"):
            OnboardPolicy(tmp_path / "bundle")
