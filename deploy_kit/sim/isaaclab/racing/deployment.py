"""The racing task for ``isaaclab leapp deploy``, which runs the model of a `leapp.yaml` without the task's managers.

Isaac Lab's deployment environment has scene, events and commands, and no observations, actions, terminations. It feeds
a model's inputs from commands and writes its outputs to methods of the scene's entities, by names in `leapp.yaml`. So
here the policy's inputs are commands, the drone takes the policy's action, and episodes end as in the racing task.
"""

import logging
from types import SimpleNamespace
from typing import Any

import torch
from isaaclab.managers import CommandTerm, CommandTermCfg, EventTermCfg
from isaaclab.utils import configclass
from isaaclab_newton.assets import RigidObject
from torch import Tensor

from deploy_kit.sim.isaaclab.racing import terms
from deploy_kit.sim.isaaclab.racing.actions import CtbrAction
from deploy_kit.sim.isaaclab.racing.config import RacingEnvCfg, racing_env_cfg, stage_from_environment
from deploy_kit.sim.isaaclab.racing.race import Race, RaceCfg, ctbr_of, race_of
from deploy_kit.sim.isaaclab.racing.rays import index_tracks
from deploy_kit.sim.options import EnvOptions

_logger = logging.getLogger(__name__)
_FOREVER = 1e9


class DeployedDrone(RigidObject):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """The drone with its controller, which a model's output is written to.

    Attributes:
        controller: turns actions into wrenches; None before the first command term is built.
        flies: whether an action was given since the last reset.
    """

    controller: CtbrAction | None = None
    flies = False

    def fly(self, action: Tensor) -> None:
        """Take the policy's unbounded action (N, 4) of one policy step."""
        assert self.controller is not None
        self.controller.process_actions(action)
        self.flies = True

    def fly_command(self, command: Tensor) -> None:
        """Take thrust over mass, m/s², and body rates, rad/s, (N, 4) of one policy step."""
        assert self.controller is not None
        self.fly(self.controller.action_of(command))

    def write_data_to_sim(self) -> None:
        """Hold the wrench over the physics step that comes."""
        if self.controller is not None and self.flies:
            self.controller.apply_actions()
        super().write_data_to_sim()


class PolicyState(CommandTerm):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """The vehicle's state as the policy takes it, (N, 16); also judges the step just flown, before the race moves on.

    Args:
        cfg: configuration.
        env: environment.
    """

    cfg: "PolicyStateCfg"

    def __init__(self, cfg: "PolicyStateCfg", env: Any) -> None:
        super().__init__(cfg, env)
        controller = env.cfg.actions.ctbr.class_type(env.cfg.actions.ctbr, env)
        env.scene["robot"].controller = controller
        # What the task's terms look for.
        env.action_manager = SimpleNamespace(get_term=lambda name: controller)
        env.common_step_counter = 0
        self._seen: tuple[tuple[int, int], Tensor, Tensor] | None = None
        self._steps = 0

    @property
    def command(self) -> Tensor:
        """The state."""
        return self.observation()[0]

    def observation(self) -> tuple[Tensor, Tensor]:
        """Return state (N, 16) and image (N, pixels) of this policy instant, with the noise of one drawing."""
        env = self._env
        instant = (env.common_step_counter, race_of(env).resets)
        if self._seen is None or self._seen[0] != instant:
            parts = [terms.body_velocity(env, True), terms.attitude(env, True), terms.targets(env, True)]
            state = torch.cat([*parts, terms.acting_command(env)], dim=-1)
            self._seen = (instant, state, terms.depth_image(env, True))
        return self._seen[1:]

    def compute(self, dt: float) -> None:
        """Judge the step just flown, and begin a new episode where this one ended."""
        env, race = self._env, race_of(self._env)
        if not env.scene["robot"].flies:
            return
        env.common_step_counter += 1
        self._steps += 1
        outcome = race.judge()
        over = self._steps * dt >= env.cfg.episode_length_s
        if over or bool((outcome.crashed | outcome.finished).any()):
            how = "crashed" if bool(outcome.crashed.any()) else "ended"
            _logger.warning("%d gates passed in %.1f s, %s", int(outcome.gates_passed[0]), self._steps * dt, how)
            env.reset()

    def reset(self, env_ids: Any = None) -> dict[str, Tensor]:
        """Let thrust and torque start from 0."""
        ctbr_of(self._env).reset(env_ids)
        self._env.scene["robot"].flies = False
        self._steps = 0
        extras: dict[str, Tensor] = super().reset(env_ids)
        return extras

    def _resample_command(self, env_ids: Any) -> None:
        """Do nothing: the state is measured."""

    def _update_command(self) -> None:
        """Do nothing."""

    def _update_metrics(self) -> None:
        """Do nothing."""

    def _set_debug_vis_impl(self, debug_vis: bool) -> None:
        raise NotImplementedError


class PolicyDepth(PolicyState):
    """The depth image as the policy takes it, (N, 1, rows, columns)."""

    def __init__(self, cfg: "PolicyStateCfg", env: Any) -> None:
        CommandTerm.__init__(self, cfg, env)

    @property
    def command(self) -> Tensor:
        """The image."""
        camera = race_of(self._env).task.camera
        return _state_of(self._env).observation()[1].reshape(-1, 1, camera.height, camera.width)

    def compute(self, dt: float) -> None:
        """Do nothing."""

    def reset(self, env_ids: Any = None) -> dict[str, Tensor]:
        """Do nothing."""
        return {}


class PolicyObservation(PolicyDepth):
    """State and image in one, (N, 6928)."""

    @property
    def command(self) -> Tensor:
        """The observation."""
        return torch.cat(_state_of(self._env).observation(), dim=-1)


def _state_of(env: Any) -> PolicyState:
    state: PolicyState = env.command_manager.get_term("policy_state")
    return state


@configclass
class PolicyStateCfg(CommandTermCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """Configuration of the policy's inputs."""

    class_type: type = PolicyState
    resampling_time_range: tuple[float, float] = (_FOREVER, _FOREVER)


@configclass
class _Commands:
    # In this order: a step is judged before the race moves on, and seen afterwards.
    policy_state: PolicyStateCfg = PolicyStateCfg()
    race: RaceCfg = RaceCfg()
    policy_depth: PolicyStateCfg = PolicyStateCfg(class_type=PolicyDepth)
    policy_observation: PolicyStateCfg = PolicyStateCfg(class_type=PolicyObservation)


def begin_flight(env: Any, env_ids: Any) -> None:
    """Begin an episode; before the first one, what the racing task does as it starts."""
    race: Race = race_of(env)
    if not race.resets:
        race.generator.manual_seed(race.options.seed if env.cfg.seed is None else env.cfg.seed)
        terms.set_airframe(env, env_ids)
        index_tracks(env, env_ids)
    terms.begin_episode(env, env_ids)


@configclass
class _Events:
    episode = EventTermCfg(func=begin_flight, mode="reset")


def deployment_env_cfg(options: EnvOptions | None = None) -> RacingEnvCfg:
    """Return the racing task's configuration for Isaac Lab's deployment environment, which has one drone.

    Args:
        options: options of the environment, of which `num_envs` is 1; None for the defaults with the stage that the
            environment variable TRAINING_STAGE names (2 without it).

    Raises:
        OptionError: TRAINING_STAGE is not a stage.
    """
    options = EnvOptions(num_envs=1, stage=stage_from_environment()) if options is None else options
    cfg: Any = racing_env_cfg(options)
    commands = _Commands()
    commands.race.settings = cfg.commands.race.settings
    cfg.commands, cfg.events = commands, _Events()
    cfg.scene.robot.class_type = DeployedDrone
    deployed: RacingEnvCfg = cfg
    return deployed
