"""A user's extension module with a multi-agent task: one agent tells a falling cube's pose, the other one sees it."""

import gymnasium
import torch
from isaaclab.envs import DirectMARLEnv, DirectMARLEnvCfg
from isaaclab.utils import configclass

from helpers.isaaclab.user_tasks import Scene, agent, high, image, pose, put_back


@configclass
class TwoAgentsCfg(DirectMARLEnvCfg):
    scene: Scene = Scene(num_envs=1, env_spacing=1.0)
    possible_agents = ["pilot", "camera"]  # noqa: RUF012  # Isaac Lab copies it
    observation_spaces = {"pilot": 7, "camera": 18 * 36}  # noqa: RUF012  # Isaac Lab copies it
    action_spaces = {"pilot": 3, "camera": 1}  # noqa: RUF012  # Isaac Lab copies it
    state_space = 0

    def __post_init__(self):
        from deploy_kit.sim.isaaclab.host.newton import newton_physics

        self.decimation, self.episode_length_s, self.sim.dt = 2, 0.2, 0.01
        self.sim.physics = newton_physics(1)


class TwoAgents(DirectMARLEnv):
    """Without labels: what a multi-agent task gives that knows nothing of deploy-kit."""

    def _pre_physics_step(self, actions):
        self.given = {name: action.clone() for name, action in actions.items()}

    def _apply_action(self):
        pass

    def _get_observations(self):
        return {"pilot": pose(self), "camera": image(self)}

    def _get_rewards(self):
        return {name: torch.ones(self.num_envs, device=self.device) for name in self.cfg.possible_agents}

    def _get_dones(self):
        never = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        late = self.episode_length_buf >= self.max_episode_length
        return dict.fromkeys(self.cfg.possible_agents, never), dict.fromkeys(self.cfg.possible_agents, late)

    def _reset_idx(self, env_ids):
        super()._reset_idx(env_ids)
        put_back(self, env_ids)


class TwoLabelledAgents(TwoAgents):
    """With the label beside the agents' observations."""

    def _get_observations(self):
        return {**super()._get_observations(), "auxiliary": high(self)}


class TwoMislabelledAgents(TwoAgents):
    """With one label for all environments."""

    def _get_observations(self):
        return {**super()._get_observations(), "auxiliary": high(self)[:1]}


def one_agent():
    cfg = agent()
    cfg.obs_groups = {"actor": ["policy"], "critic": ["policy"]}
    return cfg


for _name in ("TwoAgents", "TwoLabelledAgents", "TwoMislabelledAgents"):
    if (_id := f"Cube-{_name}-v0") not in gymnasium.registry:
        gymnasium.register(
            id=_id,
            entry_point=f"{__name__}:{_name}",
            disable_env_checker=True,
            kwargs={"env_cfg_entry_point": TwoAgentsCfg, "rsl_rl_cfg_entry_point": one_agent},
        )
