"""What a manager-based task says of itself, on stand-ins with the attributes of Isaac Lab's managers."""

from types import SimpleNamespace

import torch

from deploy_kit.policy.run.interface_file import read_interface
from deploy_kit.policy.run.params import RunParams
from deploy_kit.policy.run.resolve_task import resolve_task_meaning
from deploy_kit.sim.isaaclab.host.interface import task_interface

ROBOT = ["right_hip", "left_hip", "right_knee", "left_knee"]


def function(name, module="isaaclab.envs.mdp.observations"):
    def compute(env):
        return None

    compute.__name__, compute.__module__ = name, module
    return compute


def cfg(name, module="isaaclab.envs.mdp.observations", **changes):
    settings = {"clip": None, "scale": None, "history_length": 0, "modifiers": None, "params": {}, **changes}
    return SimpleNamespace(func=function(name, module), **settings)


class JointPositionAction:
    """Isaac Lab's action term, as far as its attributes are read."""

    action_dim = 2
    cfg = SimpleNamespace(asset_name="robot")
    _joint_names = ("left_knee", "right_hip")
    _scale = 0.5
    _offset = torch.tensor([[0.1, -0.2], [9.0, 9.0]])


def environment(time_major=False):
    knees = SimpleNamespace(name="robot", joint_ids=[3, 2])
    terms = {
        "gyro": (cfg("base_ang_vel", scale=torch.tensor(0.25), clip=(-10.0, 10.0)), (3,)),
        "knees": (cfg("joint_pos_rel", params={"asset_cfg": knees}, history_length=3), (6,)),
        "joints": (cfg("joint_vel_rel", scale=torch.tensor([1.0, 2.0, 3.0, 4.0])), (4,)),
        "actions": (cfg("last_action"), (2,)),
        "own": (cfg("phase", "mine"), (1,)),
    }
    data = SimpleNamespace(
        default_joint_pos=torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        joint_stiffness=torch.tensor([[10.0, 20.0, 30.0, 40.0]]),
    )
    return SimpleNamespace(
        step_dt=0.02,
        physics_dt=0.005,
        scene={"robot": SimpleNamespace(joint_names=ROBOT, data=data)},
        observation_manager=SimpleNamespace(
            active_terms={"policy": list(terms)},
            _group_obs_term_cfgs={"policy": [item for item, _ in terms.values()]},
            group_obs_term_dim={"policy": [dim for _, dim in terms.values()]},
            group_obs_concatenate={"policy": True},
            _group_obs_time_major={"policy": time_major},
        ),
        action_manager=SimpleNamespace(active_terms=["drive"], get_term=lambda name: JointPositionAction()),
    )


def test_a_tasks_managers_tell_terms_joints_and_commands():
    told = task_interface(environment())
    gyro, knees, joints, actions, own = read_interface(told).groups["policy"]
    assert (gyro.scale, gyro.clip, gyro.unit) == ((0.25,) * 3, (-10.0, 10.0), "rad/s")
    assert (knees.components, knees.joints, knees.history, knees.size) == (("left_knee", "right_knee"), True, 3, 2)
    assert (joints.components, joints.scale) == (tuple(ROBOT), (1.0, 2.0, 3.0, 4.0))
    assert (actions.quantity, own.unit, own.size) == ("last_action", None, 1)
    meaning = resolve_task_meaning(RunParams(interface=told), [("policy", (16,))], 2).actions
    assert (meaning.names, meaning.joints, meaning.quantity) == (
        ("left_knee", "right_hip"),
        True,
        "joint position target",
    )
    assert (meaning.scale, meaning.default_positions, meaning.stiffness) == ((0.5, 0.5), (4.0, 1.0), (40.0, 10.0))
    assert [round(value, 6) for value in meaning.offset] == [0.1, -0.2]
    assert meaning.damping is None


def test_what_is_not_one_row_of_terms_is_not_described():
    assert "observations" not in task_interface(environment(time_major=True))
    assert task_interface(SimpleNamespace(step_dt=0.01)) == {"policy_period_s": 0.01}
