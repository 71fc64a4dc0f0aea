"""The action term: commands delayed by a step, collective-thrust and body-rate control, lags, drag.

The torch twin of `deploy_kit.sim.controller`; a test holds the two together.
"""

from typing import Any

import torch
from isaaclab.managers import ActionTerm, ActionTermCfg
from isaaclab.utils import configclass
from torch import Tensor

from deploy_kit.sim.isaaclab.racing.randomness import uniform
from deploy_kit.sim.isaaclab.racing.settings import RaceSettings
from deploy_kit.task.interface import ActionTransform

Ids = Tensor | slice


class CtbrAction(ActionTerm):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """Collective thrust and body rates, held as a body-frame wrench over one policy step.

    Args:
        cfg: configuration.
        env: environment.

    Attributes:
        task: numbers.
        command: acting command: thrust over mass, m/s², and body rates, rad/s, shape (N, 4).
        newest: command given in this step, which acts in the next one.
        given_before: command given in the step before; that of an action of 0 in an episode's first step.
        reckoned_mass: mass that commands and drag are reckoned with, kg, shape (N,).
        rate_gain: proportional gains, 1/s, shape (N, 3).
        acceleration_gain: damping on the angular acceleration, kg·m², shape (N, 3).
        time_constant: lags of thrust and of the three torques, s, shape (N, 4).
        thrust_factor: thrust applied over thrust commanded, shape (N,).
        drag_linear: N·s/m, body axes, shape (N, 3).
        drag_quadratic: N·s²/m², body axes, shape (N, 3).
    """

    cfg: "CtbrActionCfg"

    def __init__(self, cfg: "CtbrActionCfg", env: Any) -> None:
        super().__init__(cfg, env)
        task, n = cfg.settings.task, self.num_envs
        self.task = task
        limits = task.controller
        transform = ActionTransform.from_limits(limits.max_thrust_to_weight, limits.max_body_rate, task.gravity)
        self._scale, self._offset = self._constant(transform.scale), self._constant(transform.offset)
        self._inertia = self._constant(limits.inertia)
        self._raw = torch.zeros(n, 4, device=self.device)
        self._pending = torch.zeros(n, 4, device=self.device)
        self.command = self._offset.repeat(n, 1)
        self.newest, self.given_before = self.command.clone(), self.command.clone()
        self.reckoned_mass = torch.full((n,), task.airframe.mass, device=self.device)
        self.rate_gain = self._constant(limits.rate_gain).repeat(n, 1)
        self.acceleration_gain = self._constant(limits.acceleration_gain).repeat(n, 1)
        self.time_constant = torch.full((n, 4), limits.time_constant, device=self.device)
        self.thrust_factor = torch.ones(n, device=self.device)
        self.drag_linear, self.drag_quadratic = torch.zeros(2, n, 3, device=self.device)
        self._wrench = torch.zeros(n, 4, device=self.device)
        self._forces, self._torques = torch.zeros(2, n, 1, 3, device=self.device)
        self._rate_before = torch.zeros(n, 3, device=self.device)
        self._has_flown = torch.zeros(n, 1, dtype=torch.bool, device=self.device)
        self.randomise_flight(slice(None))

    def _constant(self, values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    @property
    def action_dim(self) -> int:
        """Number of actions."""
        return 4

    @property
    def raw_actions(self) -> Tensor:
        """Actions as given, (N, 4)."""
        return self._raw

    @property
    def processed_actions(self) -> Tensor:
        """Acting command, (N, 4)."""
        return self.command

    def process_actions(self, actions: Tensor) -> None:
        """Take in the actions of the next policy step, and compute the wrench of this one from the drone's state."""
        self._raw[:] = actions
        self.command = self._command_of(self._pending)
        self._pending = actions.clone()
        self.given_before, self.newest = self.newest, self._command_of(actions)
        clock = self.task.clock
        data = self._asset.data
        rate, velocity = data.root_com_ang_vel_b.torch, data.root_com_lin_vel_b.torch
        # The engine's acceleration over the last physics step; none before the first one of an episode.
        acceleration = torch.where(self._has_flown, (rate - self._rate_before) / clock.physics_dt, 0.0)
        target = torch.empty_like(self._wrench)
        target[:, 0] = self.command[:, 0] * self.reckoned_mass * self.thrust_factor
        target[:, 1:] = self._inertia * (self.rate_gain * (self.command[:, 1:] - rate))
        target[:, 1:] += torch.cross(rate, self._inertia * rate, dim=-1) - self.acceleration_gain * acceleration
        keep = torch.exp(-clock.policy_dt / self.time_constant)
        self._wrench = (1 - keep) * target + keep * self._wrench
        drag = -velocity * (self.drag_linear + self.drag_quadratic * velocity.abs())
        self._forces[:, 0] = drag
        self._forces[:, 0, 2] += self._wrench[:, 0]
        self._torques[:, 0] = self._wrench[:, 1:]
        self._has_flown[:] = True

    def _command_of(self, actions: Tensor) -> Tensor:
        return torch.tanh(actions) * self._scale + self._offset

    def action_of(self, command: Tensor) -> Tensor:
        """Return the unbounded actions (N, 4) that give commands: thrust over mass, m/s², and body rates, rad/s."""
        below_one = 1 - torch.finfo(command.dtype).eps
        return torch.atanh(((command - self._offset) / self._scale).clamp(-below_one, below_one))

    def apply_actions(self) -> None:
        """Hold the wrench over a physics step."""
        self._rate_before = self._asset.data.root_com_ang_vel_b.torch.clone()
        self._asset.permanent_wrench_composer.set_forces_and_torques_index(forces=self._forces, torques=self._torques)

    def reset(self, env_ids: Any = None, **_: Any) -> dict[str, Any]:
        """Let thrust and torque start from 0. What acts, and what acts next, stay as the last episode left them."""
        ids = slice(None) if env_ids is None else env_ids
        self._raw[ids] = 0.0
        self._wrench[ids] = 0.0
        self.newest[ids] = self._offset
        self._has_flown[ids] = False
        return {}

    def randomise_airframe(self, generator: torch.Generator) -> None:
        """Draw the mass that the controller reckons with, gains and time constants."""
        ranges = self.task.randomisation
        self.reckoned_mass += uniform(self.reckoned_mass.shape, -ranges.mass, ranges.mass, generator)
        self.rate_gain *= uniform(self.rate_gain.shape, *ranges.rate_gain, generator)
        self.acceleration_gain *= uniform(self.acceleration_gain.shape, *ranges.acceleration_gain, generator)
        self.time_constant *= uniform(self.time_constant.shape, *ranges.time_constant, generator)

    def randomise_flight(self, ids: Ids, generator: torch.Generator | None = None) -> None:
        """Draw drag and thrust error of a new episode; nominal ones without a generator."""
        airframe, ranges = self.task.airframe, self.task.randomisation
        mass = self.reckoned_mass[ids, None].expand(-1, 3)
        linear, quadratic = airframe.drag_linear * mass, airframe.drag_quadratic * mass
        factor = torch.full_like(linear[:, 0], airframe.drag_z_factor)
        if generator is not None:
            linear += uniform(linear.shape, 0, ranges.drag_linear, generator)
            quadratic += uniform(linear.shape, 0, ranges.drag_quadratic, generator)
            factor += uniform(factor.shape, 0, ranges.drag_z_factor, generator)
            error = torch.randn(len(linear), generator=generator, device=self.device)
            self.thrust_factor[ids] = 1.0 + ranges.thrust_error * error
        linear[:, 2] *= factor
        quadratic[:, 2] *= factor
        self.drag_linear[ids], self.drag_quadratic[ids] = linear, quadratic


@configclass
class CtbrActionCfg(ActionTermCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """Configuration of `CtbrAction`."""

    class_type: type = CtbrAction
    asset_name: str = "robot"
    settings: RaceSettings = RaceSettings()
