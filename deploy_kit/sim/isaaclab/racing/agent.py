"""The racing task's rsl_rl agent: deploy-kit's policy under PPO."""

from typing import Any

from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import RslRlMLPModelCfg, RslRlOnPolicyRunnerCfg, RslRlPpoAlgorithmCfg

_MODELS = "deploy_kit.policy.rsl_rl_models"


@configclass
class VisionActorCfg(RslRlMLPModelCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """Options of `deploy_kit.policy.rsl_rl_models.VisionActor`."""

    class_name: str = f"{_MODELS}:VisionActor"
    hidden_dims: list[int] = [128, 128]  # noqa: RUF012  # Isaac Lab copies it
    activation: str = "lrelu"
    distribution_cfg: Any = RslRlMLPModelCfg.GaussianDistributionCfg(init_std=1.0)
    image_shape: tuple[int, int] = (72, 96)
    gate_head: bool = True


@configclass
class VisionCriticCfg(RslRlMLPModelCfg):  # type: ignore[misc]  # Isaac Lab is not there when types are checked
    """Options of `deploy_kit.policy.rsl_rl_models.VisionCritic`."""

    class_name: str = f"{_MODELS}:VisionCritic"
    hidden_dims: list[int] = [128, 128]  # noqa: RUF012  # Isaac Lab copies it
    activation: str = "lrelu"


def racing_agent_cfg() -> RslRlOnPolicyRunnerCfg:
    """Return the configuration of rsl_rl's on-policy runner."""
    return RslRlOnPolicyRunnerCfg(
        num_steps_per_env=24,
        max_iterations=4000,
        save_interval=500,
        experiment_name="quadcopter_ctbr_racing",
        obs_groups={"actor": ["policy"], "critic": ["critic"]},
        actor=VisionActorCfg(),
        critic=VisionCriticCfg(),
        algorithm=RslRlPpoAlgorithmCfg(
            share_cnn_encoders=True,
            num_learning_epochs=5,
            num_mini_batches=4,
            learning_rate=3e-4,
            schedule="adaptive",
            gamma=0.99,
            lam=0.95,
            entropy_coef=0.0,
            desired_kl=0.01,
            max_grad_norm=1.0,
            value_loss_coef=1.0,
            use_clipped_value_loss=True,
            clip_param=0.2,
        ),
    )
