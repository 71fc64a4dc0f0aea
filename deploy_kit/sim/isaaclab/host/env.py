"""Isaac Lab environments as the rsl_rl vector environments that the pipeline flies in."""

import gc
from typing import Any

import torch
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper
from tensordict import TensorDict

from deploy_kit.sim.isaaclab.host.registered_agent import RegisteredAgent
from deploy_kit.sim.isaaclab.racing.race import Outcome, race_of
from deploy_kit.sim.tracks import Track


class IsaacLabEnv(RslRlVecEnvWrapper):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """Any Isaac Lab task. Closing it leaves room for another one in the same process.

    Args:
        env: as Isaac Lab builds it.
        agent: the agent that the task registers.
    """

    def __init__(self, env: Any, agent: RegisteredAgent) -> None:
        super().__init__(env, clip_actions=agent.clip_actions)
        self.agent = agent

    def close(self) -> None:
        """Close the environment and forget the meshes of its ray casters.

        Isaac Lab keeps them by prim path for the life of the process: another environment would see this one's tracks.
        """
        from isaaclab.sensors.ray_caster import RayCaster

        super().close()
        RayCaster.meshes.clear()
        gc.collect()


class IsaacLabRacingEnv(IsaacLabEnv):
    """The racing task with the observation groups and `extras` of the embedded simulator's environment.

    Any policy that fits is flown as its file says, as in the embedded simulator: what is registered is the agent that
    training begins with, not the one that every policy was trained with.

    Positions are in each track's own frame. Noise and randomisation come from one generator, so that an environment's
    episodes depend on how many there are.
    """

    def tracks(self) -> list[Track]:
        """Return the track that each environment is on."""
        race = race_of(self.unwrapped)
        return [race.pool.tracks[index] for index in race.track.tolist()]

    def get_observations(self) -> TensorDict:
        """Return the current observations, those that the last `step` or reset returned."""
        return TensorDict(self.unwrapped.obs_buf, batch_size=[self.num_envs], device=self.device)

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """Fly one policy step; see `deploy_kit.sim.mujoco.env.MujocoRacingEnv`."""
        observations, rewards, dones, extras = super().step(actions)
        outcome = race_of(self.unwrapped).judge()
        done = dones.bool()
        return observations, rewards, dones, {**extras, **_extras(outcome, done)}


def _extras(outcome: Outcome, done: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "time_outs": done & ~outcome.crashed,
        "track_id": outcome.track_id,
        "episode_id": outcome.episode_id,
        "episode_step": outcome.episode_step,
        "crashed": outcome.crashed,
        "gates_passed": outcome.gates_passed,
        "speed": torch.linalg.norm(outcome.velocity, dim=-1),
        "position": outcome.position,
        "quaternion": outcome.quaternion,
        "fresh_image": outcome.fresh_image,
        "first_step": outcome.episode_step == 0,
    }
