"""Any policy on board by its contract's terms: joints by name, histories, memory, guards, commands."""

import json
import threading

import numpy as np
import pytest
import torch

from deploy_kit.flightlog.reader import open_flight_log
from deploy_kit.onboard import Fault, OnboardFault, OnboardOptions, OnboardPolicy, TermPolicy
from deploy_kit.onboard.__main__ import main
from helpers.term_bundles import INTERFACE, LIMIT, golden_arrays, write_bundle, write_manifest

ORDER = ["a", "spare", "b", "c"]
"""The robot's joints, of which the policy does not know one."""


def options(**changes) -> OnboardOptions:
    return OnboardOptions(**{"joint_order": ORDER, **changes})


@pytest.fixture(scope="module", params=["mlp", "lstm", "gru"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "bundle"
    return folder, write_bundle(folder, request.param)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("terms") / "bundle"
    write_bundle(folder, "mlp")
    return folder


def terms_at(step: int) -> dict:
    rng = np.random.default_rng(step)
    return {
        "gravity": rng.uniform(-1, 1, 3),
        "joint_pos": rng.uniform(-1, 1, 2),  # a, b: the robot's order
        "gyro": np.array([rng.uniform(-8, 8)]),
    }


class Expected:
    """The same by hand: numbers in the policy's order, written out."""

    def __init__(self, network):
        self.network = network
        self.reset()

    def reset(self):
        self.state, self.gyro, self.action = self.network.initial_state(1), None, np.zeros(3)

    def step(self, terms):
        a, b = terms["joint_pos"]
        gyro = 0.25 * np.clip(terms["gyro"][0], -4, 4)
        self.gyro = [gyro] * 3 if self.gyro is None else [*self.gyro[1:], gyro]
        row = [*terms["gravity"], 2.0 * (a - 0.5), 3.0 * (b + 1.0), *self.gyro, *self.action]
        observation = torch.tensor([row], dtype=torch.float32)
        with torch.no_grad():
            given = self.network({"policy": observation}, self.state)
        self.state = given.state
        self.action = np.clip(given.action[0].numpy(), -LIMIT, LIMIT)
        b, c, a = self.action * [0.1, 0.2, 0.3] + [1.0, 2.0, 3.0]
        return np.array([a, b, min(c, 2.01)]), float(torch.sigmoid(given.head_logit))


def test_a_flight_by_terms_is_that_of_the_network(made):
    folder, network = made
    policy, expected = TermPolicy(folder, options()), Expected(network)
    assert policy.terms == ("gravity", "joint_pos", "gyro")
    assert policy.self_check <= 1.0
    limited = clipped = 0
    for episode in range(2):
        policy.reset()
        expected.reset()
        for step in range(8):
            terms = terms_at(10 * episode + step)
            output = policy.step(terms)
            command, probability = expected.step(terms)
            np.testing.assert_allclose(output.command, command, rtol=1e-5, atol=1e-5)
            assert output.probability == pytest.approx(probability, abs=1e-5)
            assert output.positive == (output.probability >= 1 / (1 + np.exp(-0.1)))
            limited += np.isclose(np.abs(expected.action).max(), LIMIT)
            clipped += command[2] == 2.01
    assert limited
    assert clipped


def test_joints_in_the_policys_own_order_are_left_as_they_are(folder):
    policy = TermPolicy(folder, OnboardOptions(joint_order=["b", "c", "a"]))
    other = TermPolicy(folder, options())
    terms = terms_at(0)
    a, b = terms["joint_pos"]
    swapped = policy.step({**terms, "joint_pos": np.array([b, a])})
    assert swapped.command.tolist() == other.step(terms).command[[1, 2, 0]].tolist()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (None, r"robots list them in orders of their own: give your robot's .* the policy's is a, b, c"),
        (["a", "b"], "joint_order lacks c, which the action needs"),
        (["b", "c"], "joint_order lacks a, which term joint_pos needs"),
        (["a", "b", "c", "a"], "no list of different names"),
        ("abc", "no list of different names"),
    ],
)
def test_joints_that_are_not_named_are_refused(folder, order, message):
    with pytest.raises(OnboardFault, match=message) as caught:
        TermPolicy(folder, OnboardOptions(joint_order=order))
    assert caught.value.fault is Fault.OPTIONS


@pytest.mark.parametrize(
    ("change", "fault", "message"),
    [
        (lambda t: t.pop("gyro"), Fault.STATE_SHAPE, "lack gyro"),
        (lambda t: t.update(speed=1.0), Fault.STATE_SHAPE, "reads no term 'speed'"),
        (lambda t: t.update(actions=np.zeros(3)), Fault.STATE_SHAPE, "actions is filled in by the runner"),
        (lambda t: t.update(gravity=np.zeros(2)), Fault.STATE_SHAPE, r"gravity has shape \(2,\), expected \(3,\)"),
        (lambda t: t.update(gravity=np.zeros(3, int)), Fault.STATE_TYPE, "gravity is ndarray, give an array of floats"),
        (lambda t: t.update(gravity="down"), Fault.STATE_TYPE, "gravity is str"),
        (lambda t: t.update(gravity=np.array([0, 0, np.nan])), Fault.STATE_NOT_FINITE, r"gravity\[2\] is nan"),
        (lambda t: t.update(joint_pos=np.zeros(4)), Fault.STATE_SHAPE, r"expected \(2,\): .* alone, in joint_order's"),
        (lambda t: t.update(joint_pos=np.array([0.0, np.inf])), Fault.STATE_NOT_FINITE, r"joint_pos\[b\] is inf"),
        (lambda t: t.update(gravity=np.array([0.0, 0, -1.2])), Fault.STATE_OUT_OF_RANGE, r"gravity\[2\] is -1.2, exp"),
        (
            lambda t: t.update(gravity=np.ma.masked_array(np.zeros(3), mask=True)),
            Fault.STATE_TYPE,
            "gravity is a masked array",
        ),
    ],
)
def test_terms_that_are_unusable_are_refused_by_name_and_change_nothing(made, change, fault, message):
    folder, network = made
    policy, expected = TermPolicy(folder, options()), Expected(network)
    for step in range(3):
        policy.step(terms_at(step))
        expected.step(terms_at(step))
    bad = terms_at(3)
    change(bad)
    with pytest.raises(OnboardFault, match=message) as caught:
        policy.step(bad)
    assert caught.value.fault is fault
    policy.hold()
    np.testing.assert_allclose(policy.step(terms_at(4)).command, expected.step(terms_at(4))[0], rtol=1e-5, atol=1e-5)


def test_numbers_just_outside_a_range_are_let_through(folder):
    assert TermPolicy(folder, options()).step({**terms_at(0), "gravity": np.array([0.0, 0.0, -1.09])})


def test_times_are_checked(folder):
    policy = TermPolicy(folder, options())
    policy.step(terms_at(0), now=1.0, terms_time=1.0)
    with pytest.raises(OnboardFault, match=r"0\.050 s old"):
        policy.step(terms_at(1), now=1.05, terms_time=1.0)
    with pytest.raises(OnboardFault, match=r"0\.001 s after the last step"):
        policy.step(terms_at(1), now=1.001, terms_time=1.001)
    policy.step(terms_at(1), now=1.02, terms_time=1.01)


def test_events_are_announced_once(folder):
    policy = TermPolicy(folder, options())
    found = [policy.step(terms_at(step)) for step in range(40)]
    armed, wait, expected = True, 0, []
    for output in found:
        logit = np.log(output.probability / (1 - output.probability))
        armed |= logit < 0.0
        fires = wait == 0 and armed and logit >= 0.1
        wait = 2 if fires else max(wait - 1, 0)
        armed &= not fires
        expected.append(bool(fires))
    assert [output.event for output in found] == expected
    assert any(expected)


def test_a_memory_that_is_not_reset_is_caught_by_the_golden_sequences(made, monkeypatch):
    from deploy_kit.onboard.policy_graph import PolicyGraph

    folder, network = made
    monkeypatch.setattr(PolicyGraph, "reset", lambda self: None)
    if network.is_recurrent:
        with pytest.raises(OnboardFault, match="golden sequence") as caught:
            TermPolicy(folder, options())
        assert caught.value.fault is Fault.GOLDEN_MISMATCH
    else:
        assert TermPolicy(folder, options()).self_check <= 1.0


def test_a_memory_that_is_not_carried_is_caught_by_the_golden_sequences(made, monkeypatch):
    from deploy_kit.onboard.policy_graph import PolicyGraph

    folder, network = made
    monkeypatch.setattr(PolicyGraph, "keep", lambda self: None)
    if network.is_recurrent:
        with pytest.raises(OnboardFault, match="golden sequence"):
            TermPolicy(folder, options())


@pytest.mark.parametrize("name", ["actions", "head_logit", "obs/policy"])
def test_a_golden_sequence_that_comes_out_otherwise_is_refused(tmp_path, name):
    network = write_bundle(tmp_path / "bundle", "gru")
    arrays = golden_arrays(network)
    arrays[name] = arrays[name].copy()
    arrays[name][2, 1] += 0.01
    np.savez(tmp_path / "bundle" / "golden.npz", **arrays)
    write_manifest(tmp_path / "bundle")
    with pytest.raises(OnboardFault, match="golden sequence 1, step") as caught:
        TermPolicy(tmp_path / "bundle", options())
    assert caught.value.fault is Fault.GOLDEN_MISMATCH


def test_groups_without_terms_are_given_whole(tmp_path):
    network = write_bundle(tmp_path / "bundle", "cnn", interface=None)
    policy = TermPolicy(tmp_path / "bundle")
    assert policy.terms == ("proprio", "camera", "command")
    rng = np.random.default_rng(0)
    groups = {group.name: rng.normal(size=group.shape).astype(np.float32) for group in network.spec.groups}
    output = policy.step(groups)
    with torch.no_grad():
        given = network({name: torch.from_numpy(value[None]) for name, value in groups.items()})
    np.testing.assert_allclose(output.action, given.action[0], rtol=1e-5, atol=1e-5)
    assert output.command is None
    with pytest.raises(OnboardFault, match=r"group camera has shape \(12, 16\), expected \(1, 12, 16\)"):
        policy.step({**groups, "camera": groups["camera"][0]})
    with pytest.raises(OnboardFault, match="names no joints, so joint_order has no effect"):
        TermPolicy(tmp_path / "bundle", options())


def test_terms_that_several_groups_have_are_named_after_their_group(tmp_path):
    terms = {
        "proprio": [{"name": "gyro", "size": 6}, {"name": "speed", "size": 3}],
        "command": [{"name": "gyro", "size": 3}],
    }
    network = write_bundle(tmp_path / "bundle", "cnn", interface={"observations": terms})
    policy = TermPolicy(tmp_path / "bundle")
    assert policy.terms == ("proprio.gyro", "speed", "command.gyro", "camera")
    values = {"proprio.gyro": np.full(6, 0.5), "speed": np.ones(3), "command.gyro": -np.ones(3)}
    camera = np.full((1, 12, 16), 0.25)
    output = policy.step({**values, "camera": camera})
    groups = {
        "proprio": [*values["proprio.gyro"], *values["speed"]],
        "command": values["command.gyro"],
        "camera": camera,
    }
    with torch.no_grad():
        given = network(
            {name: torch.tensor(np.array(value)[None], dtype=torch.float32) for name, value in groups.items()}
        )
    np.testing.assert_allclose(output.action, np.clip(given.action[0].numpy(), -LIMIT, LIMIT), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "fault", "message"),
    [
        (lambda c: c.update(schema_version=2), Fault.CONTRACT_VERSION, "schema version 2"),
        (lambda c: c.pop("kind"), Fault.CONTRACT_INVALID, "fly it with OnboardPolicy"),
        (lambda c: c["task"]["groups"][0]["terms"][1].update(start=2), Fault.CONTRACT_INVALID, "do not tile"),
        (lambda c: c["task"]["groups"][0]["terms"][1].update(name="gyro"), Fault.CONTRACT_INVALID, "have one name"),
        (lambda c: c["task"]["groups"][0]["terms"].pop(), Fault.CONTRACT_INVALID, "make 8 numbers"),
        (lambda c: c["task"]["groups"][0]["terms"][1].update(components=["a", "a"]), Fault.CONTRACT_INVALID, "names 2"),
        (lambda c: c["task"]["actions"].update(scale=[1.0]), Fault.CONTRACT_INVALID, "is not 3 finite numbers"),
        (lambda c: c["task"]["actions"].update(limit=-1.0), Fault.CONTRACT_INVALID, "limit is -1.0"),
        (lambda c: c["head"]["detector"].update(release_logit=9.0), Fault.CONTRACT_INVALID, "release 9.0"),
        (lambda c: c["groups"][0].update(shape=[0]), Fault.CONTRACT_INVALID, "a size is 0"),
    ],
)
def test_a_contract_that_is_unusable_is_refused(tmp_path, folder, change, fault, message):
    for name in ("policy.onnx", "golden.npz", "contract.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    contract = json.loads((tmp_path / "contract.json").read_text())
    change(contract)
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    write_manifest(tmp_path)
    with pytest.raises(OnboardFault, match=message) as caught:
        TermPolicy(tmp_path, options())
    assert caught.value.fault is fault


def test_joints_in_another_order_in_contract_json_than_in_the_graph_are_refused(tmp_path, folder):
    for name in ("policy.onnx", "golden.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    contract = json.loads((folder / "contract.json").read_text())
    contract["task"]["actions"]["names"].reverse()
    (tmp_path / "contract.json").write_text(json.dumps(contract))
    write_manifest(tmp_path)
    with pytest.raises(OnboardFault, match=r"policy.onnx carries another contract"):
        TermPolicy(tmp_path, options())


def test_each_runner_refuses_the_others_bundle(folder):
    with pytest.raises(OnboardFault, match="run it with TermPolicy"):
        OnboardPolicy(folder)


def test_the_check_on_this_computer_knows_both_kinds(folder, capsys):
    clock = iter(range(0, 10**9, 5000)).__next__
    assert main([str(folder), "--steps", "100"], clock=clock) == 0
    out = capsys.readouterr().out
    assert "one step: 5 µs (p50), 5 µs (p99 of 100 steps), 0.0 % of the policy period" in out
    assert "terms: gravity, joint_pos, gyro\njoints: a, b, c\n" in out
    slow = iter(range(0, 10**12, 30_000_000)).__next__
    assert main([str(folder), "--steps", "100"], clock=slow) == 1
    assert "30000 µs (p99), the policy period is 20000 µs" in capsys.readouterr().err
    assert main([str(folder), "--steps", "100", "--assemble", "a:b"]) == 1


def test_two_threads_do_not_share_a_step(folder, monkeypatch):
    policy = TermPolicy(folder, options())
    recorded, caught = policy._recorded, []

    def other():
        try:
            policy.step(terms_at(0))
        except OnboardFault as fault:
            caught.append(fault.fault)

    def while_another_thread_calls(*inputs):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return recorded(*inputs)

    monkeypatch.setattr(policy, "_recorded", while_another_thread_calls)
    policy.step(terms_at(0))
    assert caught == [Fault.CONCURRENT]


def test_an_interrupt_as_a_step_begins_refuses_no_later_step(folder):
    policy = TermPolicy(folder, options())

    class Interrupted(set):
        def add(self, call):
            super().add(call)
            raise KeyboardInterrupt

    policy._within = within = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        policy.step(terms_at(0))
    policy._within = set(within)
    policy.step(terms_at(0))


def test_a_flight_is_recorded(folder, tmp_path):
    policy = TermPolicy(folder, options(), log=tmp_path / "flight.dklog")
    outputs = [policy.step(terms_at(step)) for step in range(3)]
    with pytest.raises(OnboardFault):
        policy.step({**terms_at(3), "gravity": np.full(3, np.nan)})
    policy.hold()
    policy.close()
    with open_flight_log(tmp_path / "flight.dklog") as log:
        steps = log.steps
    assert len(steps) == 4
    assert INTERFACE["actions"]["joints"] == policy.contract.text["task"]["actions"]["names"]
    for step, output in zip(steps, outputs, strict=False):
        np.testing.assert_array_equal(step.command, output.command)
