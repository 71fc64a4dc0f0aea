"""What a user's extension module looks like: a cube that falls, registered under ids with and without the groups."""

import gymnasium
import isaaclab.sim as sim_utils
import torch
from isaaclab.assets import RigidObjectCfg
from isaaclab.envs import ManagerBasedRLEnvCfg, mdp
from isaaclab.managers import (
    ActionTerm,
    ActionTermCfg,
    EventTermCfg,
    ObservationGroupCfg,
    ObservationTermCfg,
    RewardTermCfg,
    TerminationTermCfg,
)
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.utils import configclass


def pose(env):
    return env.scene["cube"].data.root_link_pose_w.torch.clone()


def high(env):
    return (env.scene["cube"].data.root_link_pos_w.torch[:, 2:] > 0.5).float()


def put_back(env, env_ids):
    cube = env.scene["cube"]
    cube.write_root_pose_to_sim_index(root_pose=cube.data.default_root_pose.torch[env_ids].clone(), env_ids=env_ids)


class NoAction(ActionTerm):
    @property
    def action_dim(self):
        return 4

    @property
    def raw_actions(self):
        return torch.zeros(self.num_envs, 4)

    processed_actions = raw_actions

    def process_actions(self, actions):
        pass

    def apply_actions(self):
        pass


@configclass
class Pose(ObservationGroupCfg):
    pose = ObservationTermCfg(func=pose)


@configclass
class High(ObservationGroupCfg):
    high = ObservationTermCfg(func=high)


@configclass
class Groups:
    policy: Pose = Pose()


@configclass
class LabelledGroups(Groups):
    auxiliary: High = High()


@configclass
class Scene(InteractiveSceneCfg):
    cube = RigidObjectCfg(
        prim_path="{ENV_REGEX_NS}/Cube",
        spawn=sim_utils.CuboidCfg(
            size=(0.1, 0.1, 0.1),
            rigid_props=sim_utils.UsdPhysicsRigidBodyCfg(rigid_body_enabled=True),
            mass_props=sim_utils.MassCfg(mass=1.0),
        ),
        init_state=RigidObjectCfg.InitialStateCfg(pos=(0.0, 0.0, 1.0)),
    )


@configclass
class Actions:
    none = ActionTermCfg(class_type=NoAction, asset_name="cube")


@configclass
class Events:
    reset = EventTermCfg(func=put_back, mode="reset")


@configclass
class Rewards:
    alive = RewardTermCfg(func=mdp.is_alive, weight=1.0)


@configclass
class Terminations:
    time_out = TerminationTermCfg(func=mdp.time_out, time_out=True)


@configclass
class CubeCfg(ManagerBasedRLEnvCfg):
    scene: Scene = Scene(num_envs=1, env_spacing=1.0)
    observations: Groups = Groups()
    actions: Actions = Actions()
    events: Events = Events()
    rewards: Rewards = Rewards()
    terminations: Terminations = Terminations()

    def __post_init__(self):
        from deploy_kit.sim.isaaclab.newton import newton_physics

        self.decimation, self.episode_length_s, self.sim.dt = 2, 0.2, 0.01
        self.sim.physics = newton_physics(1)


@configclass
class LabelledCubeCfg(CubeCfg):
    observations: LabelledGroups = LabelledGroups()


def _register(name, **kwargs):
    if name not in gymnasium.registry:
        gymnasium.register(
            id=name, entry_point="isaaclab.envs:ManagerBasedRLEnv", disable_env_checker=True, kwargs=kwargs
        )


_register("Cube-Plain-v0", env_cfg_entry_point=CubeCfg)
_register("Cube-Labelled-v0", env_cfg_entry_point=f"{__name__}:LabelledCubeCfg")
_register("Cube-Broken-v0", env_cfg_entry_point=f"{__name__}:NoSuchCfg")
_register("Cube-Bare-v0")
