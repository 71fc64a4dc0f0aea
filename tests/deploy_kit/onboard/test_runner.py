import copy

import numpy as np
import pytest
import torch

from deploy_kit.bundle.contract_fields import GateOutput
from deploy_kit.bundle.reader import manifest_text
from deploy_kit.export.exporter import ExportOptions, export_bundle
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy
from deploy_kit.onboard.guards import DepthGuard
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


def give_gate(policy, value):
    """Let the graph's gate output be a value."""

    class Graph:
        first, gate = np.zeros(4, np.float32), np.array([value])

        def run(self):
            pass

    policy._graph = Graph()


def test_both_decisions_occur_and_the_threshold_is_inclusive(bundles):
    def decide(policy, value):
        give_gate(policy, value)
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
        give_gate(policy, value)
        outputs.append(policy.step(*sample(0)))
    assert [step for step, output in enumerate(outputs) if output.gate_event] == [1, 13, 29]
    assert sum(output.gate_passed for output in outputs) == 7
    policy.reset()
    assert policy.step(*sample(0)).gate_event


def test_a_refused_step_does_not_count_for_the_detector(bundles):
    policy = OnboardPolicy(bundles.plain)
    give_gate(policy, 1.0)
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
    image = np.zeros((72, 96), np.float32)
    DepthGuard(OnboardPolicy(bundles.plain).contract, OnboardOptions(), image).fill(depth)
    assert image.dtype == np.float32
    assert (image[0, 1], image[71, 95], image[5, 5], image[9, 9]) == (np.float32(0.1) / 10, 1.0, 1.0, 0.25)
    assert depth[5, 5] == np.inf, "the caller's image is not touched"


def test_zero_reads_as_no_return_only_if_asked_for(bundles):
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
    # Extreme inputs may break what this head's rounding allows, which is not the subject.
    assert OnboardPolicy(tmp_path / "bundle", OnboardOptions(allow_unverified=True)).self_check < 1

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


# -- depth as cameras give it ------------------------------------------------------------------------------------------


def image_of(bundles, depth, **options):
    policy = OnboardPolicy(bundles.plain, OnboardOptions(**options))
    policy.step(sample()[0], depth)
    return policy._graph.image.copy()


def test_millimetres_of_unsigned_integers(bundles):
    _, metres = sample()
    millimetres = np.round(1e3 * metres).astype(np.uint16)
    wanted = image_of(bundles, millimetres.astype(np.float32) * np.float32(1e-3))
    np.testing.assert_array_equal(image_of(bundles, millimetres, depth_in_millimetres=True), wanted)
    millimetres[5, 6] = 0
    image = image_of(bundles, millimetres, depth_in_millimetres=True, zero_is_no_return=True)
    assert (image[5, 6], image_of(bundles, millimetres, depth_in_millimetres=True)[5, 6]) == (1.0, 0.0)
    with pytest.raises(OnboardFault, match="depth_type"):
        image_of(bundles, metres, depth_in_millimetres=True)


def test_nan_is_no_return_only_if_asked_for(bundles):
    _, depth = sample()
    depth[5, 6] = np.nan
    assert image_of(bundles, depth, nan_is_no_return=True)[5, 6] == 1.0
    assert np.isnan(depth[5, 6]), "the caller's image is not touched"
    with pytest.raises(OnboardFault, match=r"depth\[5, 6\] is NaN"):
        image_of(bundles, depth)


def test_millimetres_given_as_metres_are_refused(bundles):
    with pytest.raises(OnboardFault, match=r"the farthest is 2500 m: give metres") as caught:
        image_of(bundles, np.full((72, 96), 2500.0))
    assert caught.value.fault is Fault.DEPTH_UNIT


def test_millimetres_with_holes_given_as_metres_are_refused(bundles):
    depth = np.full((72, 96), 2500.0)
    depth[:, ::3] = 0.0
    with pytest.raises(OnboardFault, match=r"the farthest is 2500 m: give metres"):
        image_of(bundles, depth)


def test_bytes_are_no_millimetres(bundles):
    with pytest.raises(OnboardFault, match="uint8, give a numpy array of unsigned integers of 16 bits"):
        image_of(bundles, np.full((72, 96), 200, np.uint8), depth_in_millimetres=True)


@pytest.mark.parametrize("far", [0.0, np.inf])
def test_zeros_are_no_sight(bundles, far):
    policy, (state, depth) = OnboardPolicy(bundles.plain), sample()
    blind = np.zeros((72, 96))
    blind[:10] = far
    for _ in range(16):
        policy.step(state, blind)
    with pytest.raises(OnboardFault, match="needs zero_is_no_return") as caught:
        policy.step(state, blind)
    assert caught.value.fault is Fault.DEPTH_BLIND
    depth[0] = 0.0
    policy.step(state, depth)
    policy.step(state, blind)


def test_an_image_in_shared_memory_is_an_image(bundles, tmp_path):
    _, depth = sample()
    shared = np.memmap(tmp_path / "image", depth.dtype, "w+", shape=depth.shape)
    shared[:] = depth
    np.testing.assert_array_equal(image_of(bundles, shared), image_of(bundles, depth))


def test_a_drone_that_sees_nothing_for_half_a_second_is_told_so(bundles):
    policy = OnboardPolicy(bundles.plain)
    state, depth = sample()
    blind = np.full((72, 96), np.inf)
    # Sixteen steps of 0.03 s are 0.48 s.
    for _ in range(2):
        for _ in range(16):
            policy.step(state, blind)
        policy.step(state, depth)
    for _ in range(16):
        policy.step(state, blind)
    for _ in range(2):
        with pytest.raises(OnboardFault, match=r"no pixel had a return within 10 m for 1[78] steps") as caught:
            policy.step(state, blind)
        assert caught.value.fault is Fault.DEPTH_BLIND
    policy.reset()
    policy.step(state, blind)
    careless = OnboardPolicy(bundles.plain, OnboardOptions(max_blind_s=None))
    for _ in range(40):
        careless.step(state, blind)


# -- what acts ---------------------------------------------------------------------------------------------------------


def test_after_a_hold_what_flew_is_the_acting_command(bundles):
    policy, applied = OnboardPolicy(bundles.plain), np.array([9.81, 0.1, 0.2, 0.3])
    state, depth = sample()
    first = policy.step(state, depth).command
    policy.hold(applied)
    policy.hold()
    assert [list(command) for command in policy._acting] == [applied.tolist()] * 2
    policy.reset()
    policy.step(state, depth)
    policy.hold()
    assert [list(command) for command in policy._acting] == [first.tolist()] * 2


@pytest.mark.parametrize("applied", [[1.0, 2.0, 3.0], [np.nan, 0.0, 0.0, 0.0], 1.0, "abc", [[1.0] * 4] * 4, [{}] * 4])
def test_a_command_that_nothing_can_fly_is_refused(bundles, applied):
    policy = OnboardPolicy(bundles.plain)
    with pytest.raises(OnboardFault, match="is not 4 finite numbers") as caught:
        policy.hold(np.array(applied))
    assert caught.value.fault is Fault.COMMAND


def test_the_detectors_rest_passes_while_the_policy_holds(bundles):
    policy = OnboardPolicy(bundles.plain)
    give_gate(policy, 1.0)
    assert policy.step(*sample(0)).gate_event
    give_gate(policy, -9.0)
    policy.step(*sample(0))
    for _ in range(9):
        policy.hold()
    give_gate(policy, 1.0)
    assert policy.step(*sample(0)).gate_event
