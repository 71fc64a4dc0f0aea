"""What a run's files say of any policy's observations, actions and clock."""

import copy

import pytest
import yaml

from deploy_kit.errors import CheckpointError, MissingParametersError
from deploy_kit.policy.policy_checkpoint import load_policy
from deploy_kit.policy.run.params import RunParams, load_run_params
from deploy_kit.policy.run.resolve_task import group_shapes, require_same_interface, resolve_task_meaning
from helpers.rsl_rl_files import make_policy

MDP = "isaaclab.envs.mdp.observations:"
ENV = {
    "decimation": 4,
    "sim": {"dt": 0.005},
    "commands": {"base_velocity": {"class_type": "isaaclab.envs.mdp.commands.velocity_command:UniformVelocityCommand"}},
    "observations": {
        "policy": {
            "concatenate_terms": True,
            "history_length": None,
            "base_ang_vel": {"func": MDP + "base_ang_vel", "params": {}, "clip": (-100.0, 100.0), "scale": 0.25},
            "projected_gravity": {"func": MDP + "projected_gravity", "params": {}},
            "command": {"func": MDP + "generated_commands", "params": {"command_name": "base_velocity"}},
            "joint_pos": {"func": MDP + "joint_pos_rel", "params": {}, "history_length": 3},
            "actions": {"func": MDP + "last_action", "params": {}},
            "height_scan": {"func": MDP + "height_scan", "params": {}},
        }
    },
    "actions": {
        "joint_pos": {
            "class_type": "isaaclab.envs.mdp.actions.joint_actions:JointPositionAction",
            "joint_names": [".*"],
            "scale": 0.5,
            "offset": 0.0,
            "use_default_offset": True,
        }
    },
    "scene": {"robot": {"actuators": {"legs": {"stiffness": 25.0, "damping": 0.5}}}},
}
INTERFACE = {
    "policy_period_s": 0.02,
    "observations": {
        "policy": [
            {"name": "gravity", "size": 3, "unit": "1", "frame": "body", "low": -1, "high": 1},
            {"name": "joint_pos", "unit": "rad", "joints": ["hip", "knee"], "offset": [-0.5, 1.0], "scale": 2.0},
            {"name": "actions", "size": 2, "quantity": "last_action", "history": 2},
        ]
    },
    "actions": {"joints": ["hip", "knee"], "unit": "rad", "scale": 0.3, "offset": [0.5, -1.0], "clip": [-2, 2]},
}


def edited(data, change):
    data = copy.deepcopy(data)
    change(data)
    return data


def test_isaac_labs_dump_tells_terms_actions_and_clock():
    meaning = resolve_task_meaning(
        RunParams(env=ENV, agent={"clip_actions": 5.0}), [("policy", (3 + 3 + 3 + 36 + 12 + 7,))], 12
    )
    (group,) = meaning.groups
    assert [(t.name, t.start, t.stop, t.history) for t in group.terms] == [
        ("base_ang_vel", 0, 3, 1),
        ("projected_gravity", 3, 6, 1),
        ("command", 6, 9, 1),
        ("joint_pos", 9, 45, 3),
        ("actions", 45, 57, 1),
        ("height_scan", 57, 64, 1),
    ]
    first, joints, scan = group.terms[0], group.terms[3], group.terms[5]
    assert (first.unit, first.frame, first.clip, first.scale) == ("rad/s", "body", (-100.0, 100.0), (0.25,) * 3)
    assert first.source == "params/env.yaml: observations.policy.base_ang_vel (base_ang_vel)"
    assert (joints.components, joints.quantity) == (None, "joint_pos_rel")
    assert (scan.unit, scan.quantity) == (None, None)
    assert group.terms[4].quantity == "last_action"
    actions = meaning.actions
    assert (actions.names, actions.scale, actions.offset) == (None, (0.5,) * 12, None)
    assert (actions.quantity, actions.limit, actions.limit_source) == (
        "joint position target",
        5.0,
        "params/agent.yaml",
    )
    assert (actions.stiffness, actions.damping) == ((25.0,) * 12, (0.5,) * 12)
    assert (meaning.timing.policy_period_s.value, meaning.timing.decimation.value) == (0.02, 4.0)
    assert meaning.timing.action_latency_steps is None


def test_terms_of_unknown_size_become_one_slice_and_keep_what_follows():
    def unknown(env):
        env["observations"]["policy"]["command"]["func"] = "mine:command"
        env["observations"]["policy"]["joint_pos"]["func"] = "mine:joints"

    terms = resolve_task_meaning(RunParams(env=edited(ENV, unknown)), [("policy", (40,))], 12).groups[0].terms
    assert [(t.name, t.start, t.stop) for t in terms] == [
        ("base_ang_vel", 0, 3),
        ("projected_gravity", 3, 6),
        ("command + joint_pos + actions + height_scan", 6, 40),
    ]
    assert terms[-1].unit is None
    assert "mine:command" in terms[-1].description


@pytest.mark.parametrize("keeps", [True, False])
def test_named_joints_are_the_actions_order_only_where_isaac_lab_keeps_it(keeps):
    def name(env):
        env["actions"]["joint_pos"].update(joint_names=["b", "a"], preserve_order=keeps)

    actions = resolve_task_meaning(RunParams(env=edited(ENV, name)), [("policy", (3 + 3 + 3 + 6 + 2 + 5,))], 2).actions
    assert actions.names == (("b", "a") if keeps else None)


def test_histories_laid_out_step_by_step_are_refused():
    env = edited(ENV, lambda e: e["observations"]["policy"].update(history_order="time"))
    with pytest.raises(CheckpointError, match="history_order is 'time'"):
        resolve_task_meaning(RunParams(env=env), [("policy", (64,))], 12)


def test_terms_that_make_another_size_are_refused():
    with pytest.raises(CheckpointError, match=r"joint_pos 36, actions 12, height_scan \?\) make 57 .* reads 50"):
        resolve_task_meaning(RunParams(env=ENV), [("policy", (50,))], 12)


def test_an_interface_file_tells_all_of_it(tmp_path):
    meaning = resolve_task_meaning(RunParams(interface=INTERFACE), [("policy", (9,)), ("camera", (1, 4, 4))], 2)
    gravity, joints, actions = meaning.groups[0].terms
    assert meaning.groups[1].terms == ()
    assert (gravity.low, gravity.high, gravity.start, gravity.stop) == ((-1.0,) * 3, (1.0,) * 3, 0, 3)
    assert (joints.components, joints.joints, joints.offset, joints.scale) == (
        ("hip", "knee"),
        True,
        (-0.5, 1.0),
        (2.0, 2.0),
    )
    assert (actions.history, actions.size, actions.stop, actions.quantity) == (2, 2, 9, "last_action")
    assert joints.source == "params/interface.yaml: observations.policy.joint_pos"
    assert (meaning.actions.names, meaning.actions.joints, meaning.actions.clip) == (
        ("hip", "knee"),
        True,
        ((-2.0, 2.0), (-2.0, 2.0)),
    )
    assert meaning.timing.policy_period_s.value == 0.02
    assert group_shapes(RunParams(interface=INTERFACE)) == {"policy": (9,)}


def test_the_file_is_read_beside_the_checkpoint(tmp_path):
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "interface.yaml").write_text("policy_period_s: 0.02\n")
    assert load_run_params(tmp_path / "model.pt").interface == {"policy_period_s": 0.02}


def test_a_run_that_says_nothing_has_no_meaning():
    assert resolve_task_meaning(RunParams(), [("policy", (9,))], 2) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["observations"]["policy"][0].update(szie=3), r"unknown key 'szie'; did you mean 'size'"),
        (lambda d: d["observations"]["policy"][0].update(size=0), r"gravity\.size is 0, not a whole number"),
        (lambda d: d["observations"]["policy"][1].update(scale=0), r"joint_pos\.scale is 0, not other than 0"),
        (lambda d: d["observations"]["policy"][1].update(scale=float("nan")), r"joint_pos\.scale is nan"),
        (lambda d: d["observations"]["policy"][1].update(joints=["hip", "hip"]), r"joints is .*different names"),
        (lambda d: d["observations"]["policy"][1].update(size=3), r"joint_pos\.size is 3, not 2, as many as it names"),
        (lambda d: d["observations"]["policy"][2].update(name="gravity"), r"terms with different names"),
        (lambda d: d["observations"]["policy"][2].update(clip=[1, -1]), r"actions\.clip is \[1, -1\], not two numbers"),
        (lambda d: d["actions"].pop("offset"), r"scale and offset"),
        (lambda d: d["actions"].update(joints=["hip"], scale=None, offset=None, clip=None), r"1 names \(hip\)"),
        (lambda d: d["observations"].update(policy=[]), r"observations\.policy is \[\], not a list of terms"),
        (lambda d: d.update(policy_period_s=0), r"policy_period_s is 0, not a number above 0"),
        (lambda d: d.update(physics_period_s=0.005, decimation=5), r"says 0.02, but .*decimation is 0.025"),
        (
            lambda d: d["observations"].update(q=d["observations"].pop("policy")),
            "groups q, and the policy reads policy",
        ),
        (lambda d: d["observations"]["policy"][0].update(size=4), r"make 10 numbers, but this policy reads 9"),
    ],
)
def test_an_interface_file_that_does_not_fit_is_refused(change, message):
    with pytest.raises(CheckpointError, match=message):
        resolve_task_meaning(RunParams(interface=edited(INTERFACE, change)), [("policy", (9,))], 2)


def env_of_interface():
    listed = {"gravity": {}, "joint_pos": {"scale": 2.0}, "actions": {"history_length": 2}}
    terms = {name: {"func": "mine:f", "params": {}, **changes} for name, changes in listed.items()}
    return {"observations": {"policy": {"concatenate_terms": True, **terms}}, "sim": {"dt": 0.01}, "decimation": 2}


def swap_terms(env):
    group = env["observations"]["policy"]
    group["gravity"] = group.pop("gravity")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            swap_terms,
            r"terms stand in another order than in params/env.yaml: first at place 0, gravity against joint_pos",
        ),
        (
            lambda e: e["observations"]["policy"]["joint_pos"].update(scale=1.0),
            r"joint_pos has scale \[2.0, 2.0\], .*1.0",
        ),
        (
            lambda e: e["observations"]["policy"]["gravity"].update(clip=(-1, 1)),
            r"gravity has clip none, .*\[-1.0, 1.0\]",
        ),
        (lambda e: e["observations"]["policy"]["actions"].update(history_length=3), r"actions has history 2, .* 3"),
        (lambda e: e["observations"]["policy"].pop("gravity"), r"has the terms gravity, joint_pos, actions, .* has"),
        (lambda e: e.update(decimation=4), r"policy_period_s: .*says 0.02, but params/env.yaml.* says 0.04"),
    ],
)
def test_files_that_contradict_each_other_are_refused(change, message):
    groups = [("policy", (9,))]
    assert resolve_task_meaning(RunParams(env=env_of_interface(), interface=INTERFACE), groups, 2) is not None
    with pytest.raises(CheckpointError, match=message):
        resolve_task_meaning(RunParams(env=edited(env_of_interface(), change), interface=INTERFACE), groups, 2)


def swap_joints(data):
    data["observations"]["policy"][1].update(joints=["knee", "hip"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["actions"].update(joints=["knee", "hip"]),
            r"task mine: actions: the joints stand in another order",
        ),
        (swap_joints, r"observations.policy.joint_pos: the components stand in another order"),
        (lambda d: d["observations"]["policy"].reverse(), r"observations.policy: the terms stand in another order"),
        (lambda d: d["actions"].update(scale=0.25), r"actions have scale \[0.25, 0.25\], in .* it is \[0.3, 0.3\]"),
        (lambda d: d["observations"]["policy"][0].update(unit="m"), r"gravity has unit m, in .* it is 1"),
    ],
)
def test_a_task_with_another_interface_is_refused(change, message):
    params = RunParams(interface=INTERFACE)
    require_same_interface(params, INTERFACE, "mine")
    with pytest.raises(CheckpointError, match=message):
        require_same_interface(params, edited(INTERFACE, change), "mine")


def test_a_task_with_terms_in_another_order_than_the_dump_is_refused():
    require_same_interface(RunParams(env=env_of_interface()), INTERFACE, "mine")
    with pytest.raises(CheckpointError, match=r"task mine: observations.policy: the terms stand in another order"):
        require_same_interface(RunParams(env=edited(env_of_interface(), swap_terms)), INTERFACE, "mine")


def test_sizes_of_groups_are_told_where_every_term_is_known():
    def known(env):
        del env["observations"]["policy"]["height_scan"]
        env["actions"]["joint_pos"]["joint_names"] = ["a", "b"]
        env["observations"]["policy"]["joint_pos"]["params"] = {"asset_cfg": {"joint_names": ["a", "b", "c"]}}

    assert group_shapes(RunParams(env=edited(ENV, known))) == {"policy": (3 + 3 + 3 + 9 + 2,)}
    assert group_shapes(RunParams(env=ENV)) == {}


def test_a_run_that_tells_the_groups_sizes_needs_no_option(tmp_path):
    made = make_policy(tmp_path / "run", "mlp")
    params = made.path.parent / "params"
    agent = yaml.safe_load((params / "agent.yaml").read_text())
    agent["obs_groups"]["actor"] = ["body", "joints"]
    (params / "agent.yaml").write_text(yaml.safe_dump(agent))
    with pytest.raises(MissingParametersError, match=r"--obs-shape body=N,joints=N"):
        load_policy(made.path)
    sizes = {"body": [{"name": "gyro", "size": 3}], "joints": [{"name": "pos", "size": 4, "history": 2}]}
    (params / "interface.yaml").write_text(yaml.safe_dump({"observations": sizes}))
    assert [tuple(group) for group in load_policy(made.path).network.spec.groups] == [("body", (3,)), ("joints", (8,))]
    sizes["joints"][0]["size"] = 5
    (params / "interface.yaml").write_text(yaml.safe_dump({"observations": sizes}))
    with pytest.raises(
        CheckpointError, match=r"takes 11, but params/interface.yaml.* says body \(3,\), joints \(10,\)"
    ):
        load_policy(made.path)
