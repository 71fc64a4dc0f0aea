"""The command term: which gate each drone flies to, with what noise, and what each step came to.

Isaac Lab judges a step, then resets, then observes. `Race` therefore keeps what the step came to (`Race.outcome`) until
the next step is judged; rewards, terminations, the label and `extras` all read it from there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from isaaclab.managers import CommandTerm, CommandTermCfg
from isaaclab.utils import configclass
from isaaclab.utils.math import matrix_from_quat
from torch import Tensor

from deploy_kit.sim.isaaclab.racing.actions import CtbrAction, Ids
from deploy_kit.sim.isaaclab.racing.containment import Solids
from deploy_kit.sim.isaaclab.racing.pool import build_pool
from deploy_kit.sim.isaaclab.racing.randomness import uniform
from deploy_kit.sim.isaaclab.racing.settings import RaceSettings
from deploy_kit.task.tracks import NUM_GATES

EPISODE_BITS = 32
"""An episode's number is its environment's index times two to this power, plus its count."""

_FOREVER = 1e9


@dataclass(frozen=True)
class Outcome:
    """What one policy step came to, before targets move on and before any reset; every field (N, …).

    Attributes:
        position: in the track's frame, m, (N, 3).
        quaternion: body to world, (w, x, y, z), (N, 4).
        rotation: body to world, (N, 3, 3).
        velocity: world axes, m/s, (N, 3).
        to_gate: from the drone to the true centre of the gate it flew to, world axes, m, (N, 3).
        collided: contact force above the limit, or what takes its place without colliders.
        flipped: roll or pitch beyond 90°.
        passed: gate passed.
        crashed: ended otherwise than by time-out.
        finished: last gate of an open track passed.
        gates_passed: in this episode, this step included.
        track_id: identity of the track.
        episode_id: number of the episode.
        episode_step: 0 for an episode's first step.
        fresh_image: whether the observation that this step consumed held a new frame.
    """

    position: Tensor
    quaternion: Tensor
    rotation: Tensor
    velocity: Tensor
    to_gate: Tensor
    collided: Tensor
    flipped: Tensor
    passed: Tensor
    crashed: Tensor
    finished: Tensor
    gates_passed: Tensor
    track_id: Tensor
    episode_id: Tensor
    episode_step: Tensor
    fresh_image: Tensor


@dataclass(frozen=True)
class Sight:
    """What is seen and felt at a policy instant.

    Attributes:
        position: in the track's frame, m, (N, 3).
        rotation: body to world, (N, 3, 3).
        velocity: world axes, m/s, (N, 3).
        target: true centre of the gate ahead, (N, 3), in the track's frame.
        following: true centre of the gate after it.
        depth: along the optical axis, m, clipped, row-major, (N, pixels).
    """

    position: Tensor
    rotation: Tensor
    velocity: Tensor
    target: Tensor
    following: Tensor
    depth: Tensor


class Race(CommandTerm):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """State of every environment's race.

    Args:
        cfg: configuration.
        env: environment.

    Attributes:
        options: options of the vector environment.
        task: numbers.
        stage: numbers of the training stage.
        pool: the tracks.
        track: index of each environment's track in the pool, (N,).
        gate: index of the gate ahead, (N,).
        gate_noise: half width of the noise on commanded gate positions, m, (N,).
        level: level of each environment's track, (N,); 0 without the option `levels`.
        target_noise: noise on the current and the next gate's commanded centre, m, (N, 2, 3).
        episodes: episodes begun, (N,).
        outcome: what the last step came to, None before the first.
        resets: how often episodes began.
        generator: source of everything random.
    """

    cfg: "RaceCfg"

    def __init__(self, cfg: "RaceCfg", env: Any) -> None:
        super().__init__(cfg, env)
        options, task, n = cfg.settings.options, cfg.settings.task, self.num_envs
        self.options, self.task, self.stage = options, task, task.stages[options.stage]
        self.generator = torch.Generator(self.device).manual_seed(options.seed)
        self.pool = build_pool(options, task.levels)
        self._gates = self._tensor(self.pool.gates(options.finish == "cyclic"))
        self._origins = self._tensor(self.pool.origins)
        self._starts = self._tensor([track.start for track in self.pool.tracks])
        self._solids = None if self.stage.colliders else Solids(self.pool.solids(), task, self.device)
        self._track_ids = torch.tensor([track.track_id for track in self.pool.tracks], device=self.device)
        self._open = torch.tensor(
            [not track.closed and options.finish == "end" for track in self.pool.tracks], device=self.device
        )
        self.track = torch.arange(n, device=self.device) % len(self.pool.tracks)
        self.level = torch.zeros(n, dtype=torch.long, device=self.device)
        if options.levels:
            self._column = torch.arange(n, device=self.device) * self.pool.columns // n
            self.level = self._draw(task.levels.highest_first + 1, n)
            self._track_by_level(torch.arange(n, device=self.device))
        self.gate = torch.zeros(n, dtype=torch.long, device=self.device)
        self.gates_passed = torch.zeros(n, dtype=torch.int32, device=self.device)
        # Those that a curriculum counts: without a gate passed in an episode's last step.
        self._counted = self.gates_passed.clone()
        self.gate_noise = torch.full((n,), self.stage.gate_noise, device=self.device)
        self.target_noise = torch.zeros(n, 2, 3, device=self.device)
        self.episodes = torch.zeros(n, dtype=torch.long, device=self.device)
        self.episode_step = torch.zeros(n, dtype=torch.int32, device=self.device)
        self.fresh = torch.zeros(n, dtype=torch.bool, device=self.device)
        self.outcome: Outcome | None = None
        self._frame = torch.full((n,), -1, dtype=torch.long, device=self.device)
        self._judged_at, self.resets = 0, 0
        self._sight: tuple[tuple[int, int], Sight] | None = None

    def _tensor(self, values: Any) -> Tensor:
        return torch.as_tensor(np.asarray(values), dtype=torch.float32, device=self.device)

    @property
    def command(self) -> Tensor:
        """Commanded centres of the current and the next gate, in the track's frame, m, (N, 6)."""
        return torch.cat(
            [self._gate_centre(0) + self.target_noise[:, 0], self._gate_centre(1) + self.target_noise[:, 1]], -1
        )

    @property
    def origin(self) -> Tensor:
        """Where each environment's track lies in the world, m, (N, 3)."""
        return self._origins[self.track]

    @property
    def start(self) -> Tensor:
        """Middle of the start area, in the track's frame, m, (N, 3)."""
        return self._starts[self.track]

    @property
    def first_gate(self) -> Tensor:
        """True centre of the first gate, in the track's frame, m, (N, 3)."""
        return self._gates[self.track, 0]

    def _gate_centre(self, ahead: int) -> Tensor:
        return self._gates[self.track, self.gate + ahead]

    def draw_tracks(self, ids: Tensor) -> None:
        """Give the environments `ids` new tracks if their turn has come; called as an episode begins."""
        per_track = self.options.episodes_per_track
        if self.options.levels:
            self._track_by_level(ids)
        elif per_track:
            due = (self.episodes[ids] > 0) & (self.episodes[ids] % per_track == 0)
            drawn = self._draw(len(self.pool.tracks), len(ids))
            self.track[ids] = torch.where(due, drawn, self.track[ids])

    def _state(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return position in the track's frame, quaternion (x, y, z, w) and velocity in world axes."""
        data = self._env.scene["robot"].data
        position = data.root_link_pos_w.torch - self.origin
        return position, data.root_link_quat_w.torch.clone(), data.root_com_lin_vel_w.torch.clone()

    def judge(self) -> Outcome:
        """Return what the step just flown came to; computed once a step."""
        if self.outcome is not None and self._judged_at == self._env.common_step_counter:
            return self.outcome
        self._judged_at = self._env.common_step_counter
        position, quaternion, velocity = self._state()
        rotation = matrix_from_quat(quaternion)
        to_gate = self._gate_centre(0) - position
        passed = torch.linalg.norm(to_gate, dim=-1) < self.task.pass_radius
        # The ground is a surface: a drone that fell through it between two physics steps is in contact all the same.
        if self._solids is None:
            collided = self._in_contact() | (position[:, 2] < 0)
        else:
            collided = self._solids.hold(position, rotation, self.track)
        flipped = rotation[:, 2, 2] < 0
        crashed = collided | flipped if self.stage.ends_on_crash else torch.zeros_like(collided)
        if self.stage.height_range is not None:
            low, high = self.stage.height_range
            crashed = crashed | (position[:, 2] < low) | (position[:, 2] > high)
        self._counted = self.gates_passed.clone()
        self.gates_passed += passed
        self.outcome = Outcome(
            position=position,
            quaternion=quaternion[:, [3, 0, 1, 2]],
            rotation=rotation,
            velocity=velocity,
            to_gate=to_gate,
            collided=collided,
            flipped=flipped,
            passed=passed,
            crashed=crashed,
            finished=passed & self._open[self.track] & (self.gate == NUM_GATES - 1),
            gates_passed=self.gates_passed.clone(),
            track_id=self._track_ids[self.track],
            episode_id=(torch.arange(self.num_envs, device=self.device) << EPISODE_BITS) + self.episodes - 1,
            episode_step=self.episode_step.clone(),
            fresh_image=self.fresh.clone(),
        )
        self.episode_step += 1
        return self.outcome

    def _in_contact(self) -> Tensor:
        # The history covers the physics steps of one policy step.
        forces = self._env.scene["contact"].data.net_normal_forces_w_history.torch
        contact: Tensor = (torch.linalg.norm(forces, dim=-1) > self.task.contact_force).flatten(1).any(dim=1)
        return contact

    def adapt_noise(self, ids: Ids) -> None:
        """Scale the gate noise by how the episodes that end in the environments `ids` went."""
        curriculum = self.stage.curriculum
        if curriculum is None:
            return
        passed = self._counted[ids]
        noise = self.gate_noise[ids]
        noise = torch.where(passed >= curriculum.grow_at, noise * curriculum.grow, noise)
        self.gate_noise[ids] = torch.where(passed < curriculum.shrink_below, noise * curriculum.shrink, noise)

    def adapt_levels(self, ids: Ids) -> None:
        """Move the environments `ids`, whose episodes end, up or down; the torch twin of `rules.curricula`."""
        levels, passed = self.task.levels, self._counted[ids]
        moved = self.level[ids] + (passed >= levels.up_at).long() - (passed < levels.down_below).long()
        beyond = self._draw(levels.count, len(moved))
        self.level[ids] = torch.where(moved >= levels.count, beyond, moved.clamp(min=0))

    def _draw(self, count: int, size: int) -> Tensor:
        """Return numbers below `count`, each as likely as any other."""
        return torch.randint(count, (size,), generator=self.generator, device=self.device)

    def _track_by_level(self, ids: Tensor) -> None:
        self.track[ids] = self.level[ids] * self.pool.columns + self._column[ids]

    def sight(self) -> Sight:
        """Return what is seen and felt now; computed once a policy instant."""
        instant = (self._env.common_step_counter, self.resets)
        if self._sight is None or self._sight[0] != instant:
            position, quaternion, velocity = self._state()
            camera = self._env.scene["camera"]
            depth = camera.data.output["distance_to_image_plane"].torch.flatten(1).clone()
            self.fresh = camera.frame != self._frame
            self._frame = camera.frame.clone()
            # The ray caster reports a ray that hits nothing as infinite or as not a number.
            far = self.task.camera.max_range
            depth = torch.nan_to_num(depth, nan=far, posinf=far).clamp(max=far)
            seen = Sight(
                position,
                matrix_from_quat(quaternion),
                velocity,
                self._gate_centre(0),
                self._gate_centre(1),
                depth,
            )
            self._sight = (instant, seen)
        return self._sight[1]

    def normals(self, *shape: int) -> Tensor:
        """Return standard normal draws."""
        return torch.randn(shape, generator=self.generator, device=self.device)

    def reset(self, env_ids: Any = None) -> dict[str, Tensor]:
        """Begin new episodes; returns what Isaac Lab logs of those that ended: gates passed, mean."""
        passed = self.gates_passed[slice(None) if env_ids is None else env_ids].float().mean()
        return {**super().reset(env_ids), "gates_passed": passed}

    def _resample_command(self, env_ids: Any) -> None:
        """Begin an episode: Isaac Lab resamples at resets alone, since the resampling time never comes."""
        ids = torch.arange(self.num_envs, device=self.device)[env_ids] if isinstance(env_ids, slice) else env_ids
        self.gate[ids], self.gates_passed[ids], self.episode_step[ids] = 0, 0, 0
        self._counted[ids] = 0
        self.episodes[ids] += 1
        # The camera counts its frames from 0 again.
        self._frame[ids] = -1
        self.resets += 1
        self._draw_noise(ids)

    def _draw_noise(self, ids: Tensor) -> None:
        draw = uniform((len(ids), 2, 3), -1, 1, self.generator)
        self.target_noise[ids] = self.gate_noise[ids, None, None] * draw

    def _update_command(self) -> None:
        """Move targets on where a gate was passed and the episode goes on."""
        if self.outcome is None:
            return
        # For all, and kept where a gate was passed: to ask which ones would hold up the host until the GPU is done.
        moved = self.outcome.passed & (self.episode_step > 0)
        self._counted = self.gates_passed.clone()
        self.gate = torch.where(moved, (self.gate + 1) % NUM_GATES, self.gate)
        draw = self.gate_noise[:, None, None] * uniform((self.num_envs, 2, 3), -1, 1, self.generator)
        self.target_noise = torch.where(moved[:, None, None], draw, self.target_noise)

    def _update_metrics(self) -> None:
        """Do nothing: the environment reports its figures in `extras`."""

    def _set_debug_vis_impl(self, debug_vis: bool) -> None:
        raise NotImplementedError


@configclass
class RaceCfg(CommandTermCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """Configuration of `Race`."""

    class_type: type = Race
    resampling_time_range: tuple[float, float] = (_FOREVER, _FOREVER)
    settings: RaceSettings = RaceSettings()


def race_of(env: Any) -> Race:
    """Return an environment's race."""
    race: Race = env.command_manager.get_term("race")
    return race


def ctbr_of(env: Any) -> CtbrAction:
    """Return an environment's action term."""
    term: CtbrAction = env.action_manager.get_term("ctbr")
    return term
