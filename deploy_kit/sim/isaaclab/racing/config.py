"""The racing task's configuration, as Isaac Lab's manager-based environment takes it."""

import math
import os
from dataclasses import fields
from itertools import count
from typing import Any

import isaaclab.sim as sim_utils
from isaaclab.assets import AssetBaseCfg, RigidObjectCfg
from isaaclab.envs import ManagerBasedRLEnvCfg
from isaaclab.managers import (
    CurriculumTermCfg,
    EventTermCfg,
    ObservationGroupCfg,
    ObservationTermCfg,
    RewardTermCfg,
    TerminationTermCfg,
)
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sensors import ContactSensorCfg, RayCasterCameraCfg
from isaaclab.sensors.ray_caster.patterns import PinholeCameraPatternCfg
from isaaclab.utils import configclass

from deploy_kit.errors import OptionError
from deploy_kit.sim.isaaclab.host.newton import newton_physics
from deploy_kit.sim.isaaclab.racing import terms
from deploy_kit.sim.isaaclab.racing.actions import CtbrActionCfg
from deploy_kit.sim.isaaclab.racing.pool import build_pool
from deploy_kit.sim.isaaclab.racing.race import RaceCfg
from deploy_kit.sim.isaaclab.racing.rays import index_tracks
from deploy_kit.sim.isaaclab.racing.settings import RaceSettings
from deploy_kit.sim.options import EnvOptions
from deploy_kit.task.racing import RACING_TASK, STAGES, Camera, RewardWeights, Task

_DRONE = "{ENV_REGEX_NS}/Drone"
_instances = count()


@configclass
class _Observations:
    """Groups as rsl_rl's agents and deploy-kit read them."""

    @configclass
    class Policy(ObservationGroupCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
        """The 6928 numbers of the policy; the critic's copy is without noise."""

        base_lin_vel = ObservationTermCfg(func=terms.body_velocity, params={"noisy": True})
        base_orientation = ObservationTermCfg(func=terms.attitude, params={"noisy": True})
        target_cmd = ObservationTermCfg(func=terms.targets, params={"noisy": True})
        last_action = ObservationTermCfg(func=terms.acting_command)
        image = ObservationTermCfg(func=terms.depth_image, params={"noisy": True})

        def __post_init__(self) -> None:
            self.concatenate_terms = True

    @configclass
    class Auxiliary(ObservationGroupCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
        """The label."""

        cross_obs = ObservationTermCfg(func=terms.gate_passed_label)

        def __post_init__(self) -> None:
            self.concatenate_terms = True

    policy: Policy = Policy()
    critic: Policy = Policy()
    auxiliary: Auxiliary = Auxiliary()

    def __post_init__(self) -> None:
        for name in ("base_lin_vel", "base_orientation", "target_cmd", "image"):
            getattr(self.critic, name).params = {"noisy": False}


@configclass
class _Actions:
    ctbr: CtbrActionCfg = CtbrActionCfg()


@configclass
class _Commands:
    race: RaceCfg = RaceCfg()


@configclass
class _Events:
    airframe = EventTermCfg(func=terms.set_airframe, mode="startup")
    rays = EventTermCfg(func=index_tracks, mode="startup")
    episode = EventTermCfg(func=terms.begin_episode, mode="reset")


@configclass
class _Curriculum:
    gate_noise = CurriculumTermCfg(func=terms.adapt_gate_noise)
    level: CurriculumTermCfg | None = None


@configclass
class _Terminations:
    crashed = TerminationTermCfg(func=terms.crashed)
    time_out = TerminationTermCfg(func=terms.time_is_over, time_out=True)


@configclass
class RacingSceneCfg(InteractiveSceneCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """All tracks in one mesh, one drone an environment; environments share the world's frame."""

    track: AssetBaseCfg | None = None
    robot: RigidObjectCfg | None = None
    contact: ContactSensorCfg | None = None
    camera: RayCasterCameraCfg | None = None


@configclass
class RacingEnvCfg(ManagerBasedRLEnvCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """The racing task. Build it with `racing_env_cfg`."""

    scene: RacingSceneCfg = RacingSceneCfg(num_envs=1, env_spacing=0.0, replicate_physics=True)
    observations: _Observations = _Observations()
    actions: _Actions = _Actions()
    commands: _Commands = _Commands()
    events: _Events = _Events()
    rewards: Any = None
    terminations: _Terminations = _Terminations()
    curriculum: _Curriculum = _Curriculum()


def racing_env_cfg(options: EnvOptions | None = None, task: Task = RACING_TASK) -> RacingEnvCfg:
    """Return the racing task's configuration.

    Args:
        options: options of the vector environment; None, as in the registered task, for the defaults with the stage
            that the environment variable TRAINING_STAGE names (2 without it).
        task: numbers.

    Raises:
        OptionError: TRAINING_STAGE is not a stage.
    """
    options = EnvOptions(stage=stage_from_environment()) if options is None else options
    stage, clock = task.stages[options.stage], task.clock
    cfg = RacingEnvCfg()
    cfg.seed = options.seed
    cfg.decimation = clock.decimation
    # A hair less, since Isaac Lab rounds the number of steps up.
    cfg.episode_length_s = stage.episode_length_s - 1e-9
    cfg.sim.dt, cfg.sim.render_interval = clock.physics_dt, clock.decimation
    cfg.sim.gravity = (0.0, 0.0, -task.gravity)
    cfg.sim.device = options.device
    cfg.sim.physics = newton_physics(options.num_envs)
    cfg.scene.num_envs = options.num_envs
    _fill_scene(cfg.scene, options, task)
    cfg.actions.ctbr.settings = cfg.commands.race.settings = RaceSettings(options, task)
    if options.levels:
        cfg.curriculum.level = CurriculumTermCfg(func=terms.adapt_levels)
    cfg.rewards = {
        field.name: RewardTermCfg(func=getattr(terms, field.name), weight=getattr(stage.rewards, field.name))
        for field in fields(RewardWeights)
    }
    return cfg


def stage_from_environment() -> int:
    """Return the stage that TRAINING_STAGE names, the last one without it.

    Raises:
        OptionError: it is not a stage.
    """
    text = os.environ.get("TRAINING_STAGE", str(len(STAGES) - 1))
    if text not in map(str, range(len(STAGES))):
        raise OptionError(f"TRAINING_STAGE is {text!r}; the task has the stages 0 to {len(STAGES) - 1}")
    return int(text)


def _fill_scene(scene: RacingSceneCfg, options: EnvOptions, task: Task) -> None:
    # The ray caster keeps meshes by prim path for the life of the process: every environment needs a path of its own.
    track_path = f"/World/track_{next(_instances)}"
    colliders = task.stages[options.stage].colliders
    mesh = build_pool(options, task.levels).mesh
    solid = sim_utils.UsdPhysicsCollisionCfg(collision_enabled=True)
    scene.track = AssetBaseCfg(
        prim_path=track_path,
        spawn=sim_utils.MeshFileCfg(
            mesh=sim_utils.MeshFileCfg.TriangleMeshCfg(vertices=mesh.vertices, faces=mesh.faces), collision_props=solid
        ),
    )
    scene.robot = RigidObjectCfg(
        prim_path=_DRONE,
        spawn=sim_utils.CuboidCfg(
            size=tuple(2 * extent for extent in task.airframe.box),
            rigid_props=sim_utils.UsdPhysicsRigidBodyCfg(rigid_body_enabled=True),
            mass_props=sim_utils.MassCfg(mass=task.airframe.mass),
            collision_props=sim_utils.UsdPhysicsCollisionCfg(collision_enabled=colliders),
            activate_contact_sensors=colliders,
        ),
        init_state=RigidObjectCfg.InitialStateCfg(pos=(0.0, 0.0, 5.0)),
    )
    if colliders:
        scene.contact = ContactSensorCfg(prim_path=_DRONE, history_length=task.clock.decimation, update_period=0.0)
    scene.camera = _camera(task.camera, task.clock.camera_period, track_path)


def _camera(camera: Camera, period: float, track_path: str) -> RayCasterCameraCfg:
    half = camera.tilt / 2
    return RayCasterCameraCfg(
        prim_path=_DRONE,
        mesh_prim_paths=[track_path],
        update_period=period,
        offset=RayCasterCameraCfg.OffsetCfg(
            pos=camera.position, rot=(0.0, -math.sin(half), 0.0, math.cos(half)), convention="world"
        ),
        pattern_cfg=PinholeCameraPatternCfg.from_intrinsic_matrix(
            [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0],
            width=camera.width,
            height=camera.height,
            focal_length=1.0,
        ),
        data_types=["distance_to_image_plane"],
        max_distance=camera.max_range,
        depth_clipping_behavior="max",
    )
