"""What a user's extension module looks like: a cube that falls, registered under ids with and without the groups."""

from functools import partial, reduce

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
from isaaclab_rl.rsl_rl import RslRlMLPModelCfg

from deploy_kit.policy.rsl_rl_models import VisionActor
from deploy_kit.sim.isaaclab.racing.agent import racing_agent_cfg


def pose(env):
    return env.scene["cube"].data.root_link_pose_w.torch.clone()


def high(env):
    return (env.scene["cube"].data.root_link_pos_w.torch[:, 2:] > 0.9).float()


def image(env):
    """18 x 36 pixels that tell the cube's height, flat."""
    pixels = torch.linspace(0.0, 1.0, 18 * 36, device=env.device)
    return (env.scene["cube"].data.root_link_pos_w.torch[:, 2:] * pixels).clone()


def put_back(env, env_ids):
    cube = env.scene["cube"]
    start = cube.data.default_root_pose.torch[env_ids].clone()
    cube.write_root_pose_to_sim_index(root_pose=start, env_ids=env_ids)
    cube.write_root_velocity_to_sim_index(root_velocity=torch.zeros_like(start[:, :6]), env_ids=env_ids)


class NoAction(ActionTerm):
    @property
    def action_dim(self):
        return self.cfg.size

    @property
    def raw_actions(self):
        return torch.zeros(self.num_envs, self.cfg.size)

    processed_actions = raw_actions

    def process_actions(self, actions):
        pass

    def apply_actions(self):
        pass


@configclass
class NoActionCfg(ActionTermCfg):
    class_type: type = NoAction
    asset_name: str = "cube"
    size: int = 4


@configclass
class Pose(ObservationGroupCfg):
    pose = ObservationTermCfg(func=pose)


@configclass
class High(ObservationGroupCfg):
    high = ObservationTermCfg(func=high)


@configclass
class Image(ObservationGroupCfg):
    image = ObservationTermCfg(func=image)


@configclass
class Groups:
    policy: Pose = Pose()


@configclass
class LabelledGroups(Groups):
    auxiliary: High = High()


@configclass
class SeeingGroups(LabelledGroups):
    image: Image = Image()


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
    none: NoActionCfg = NoActionCfg()


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
        from deploy_kit.sim.isaaclab.host.newton import newton_physics

        self.decimation, self.episode_length_s, self.sim.dt = 2, 0.2, 0.01
        self.sim.physics = newton_physics(1)


@configclass
class LabelledCubeCfg(CubeCfg):
    observations: LabelledGroups = LabelledGroups()


@configclass
class SeeingCubeCfg(CubeCfg):
    observations: SeeingGroups = SeeingGroups()


def finite():
    cfg = LabelledCubeCfg()
    cfg.is_finite_horizon = True
    return cfg


def threefold():
    cfg = SeeingCubeCfg()
    cfg.actions.none.size = 3
    return cfg


def actor_without_head(*arguments, **options):
    """An actor class of the user's own, which deploy-kit does not know."""
    return VisionActor(*arguments, **options, image_shape=(18, 36), gate_head=False)


class ShortSighted(VisionActor):
    """An actor of the user's own that cannot take the observations."""

    def forward(self, obs, *arguments, **options):
        return super().forward({"policy": obs["policy"][:, :5], "image": obs["image"]}, *arguments, **options)


def agent(**changes):
    """Return an agent that sees pose and image."""
    cfg = racing_agent_cfg()
    cfg.obs_groups = {"actor": ["policy", "image"], "critic": ["policy", "image"]}
    cfg.clip_actions = 0.05
    cfg.actor.image_shape, cfg.actor.obs_normalization, cfg.critic.obs_normalization = (18, 36), True, True
    cfg.num_steps_per_env, cfg.algorithm.num_mini_batches, cfg.algorithm.num_learning_epochs = 4, 2, 1
    for name, value in changes.items():
        *path, last = name.split("__")
        setattr(reduce(getattr, path, cfg), last, value)
    return cfg


def mlp(**options):
    """Return the options of a model of rsl_rl's own."""
    gaussian = RslRlMLPModelCfg.GaussianDistributionCfg(init_std=1.0)
    return RslRlMLPModelCfg(
        hidden_dims=[128, 128], activation="lrelu", obs_normalization=True, distribution_cfg=gaussian, **options
    )


def _register(name, **kwargs):
    if name not in gymnasium.registry:
        gymnasium.register(
            id=name, entry_point="isaaclab.envs:ManagerBasedRLEnv", disable_env_checker=True, kwargs=kwargs
        )


_register("Cube-Plain-v0", env_cfg_entry_point=CubeCfg)
_register("Cube-Labelled-v0", env_cfg_entry_point=f"{__name__}:LabelledCubeCfg")
_register("Cube-Finite-v0", env_cfg_entry_point=finite)
_register("Cube-Broken-v0", env_cfg_entry_point=f"{__name__}:NoSuchCfg")
_register("Cube-Bare-v0")
_register("Cube-Mapping-v0", env_cfg_entry_point={"scene": {"num_envs": 1}})
_register("Cube-File-v0", env_cfg_entry_point=f"{__name__}:user_agent.yaml")
_register("Cube-Threefold-v0", env_cfg_entry_point=threefold, rsl_rl_cfg_entry_point=agent)
for _name, _agent in {
    "Seeing": agent,
    "Seeing-Wide": partial(agent, actor__hidden_dims=[16, 16]),
    "Seeing-Swapped": partial(agent, obs_groups={"actor": ["image", "policy"]}),
    "Seeing-Unclipped": partial(agent, clip_actions=None),
    "Seeing-Elu": partial(agent, actor__activation="elu"),
    "Seeing-Unnormalised": partial(agent, actor__obs_normalization=False),
    "Seeing-Headless": partial(agent, actor__gate_head=False),
    "Seeing-Headless-Own": partial(agent, actor=mlp(class_name=f"{__name__}:actor_without_head")),
    "Seeing-Plain": partial(agent, actor=mlp(), critic=mlp(), algorithm__share_cnn_encoders=False),
    "Seeing-Distilled": partial(agent, class_name="DistillationRunner"),
    "Seeing-Short": partial(agent, actor__class_name=f"{__name__}:ShortSighted"),
    "Seeing-Unknown": partial(agent, actor__class_name="no_such_module:Actor"),
    "Seeing-Blind": partial(agent, obs_groups={"actor": ["policy", "depth"]}),
    "Seeing-Old-Name": partial(agent, obs_groups={"policy": ["policy", "image"], "critic": ["policy", "image"]}),
    "Seeing-File": f"{__name__}:user_agent.yaml",
    "Seeing-No-File": f"{__name__}:no_such_agent.yaml",
    "Seeing-Nothing": object,
}.items():
    _register(f"Cube-{_name}-v0", env_cfg_entry_point=SeeingCubeCfg, rsl_rl_cfg_entry_point=_agent)
