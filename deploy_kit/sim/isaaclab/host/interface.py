"""What an Isaac Lab task's managers say of observations and actions, as `params/interface.yaml` holds it.

Sizes, joints and their order are those of the living task, which its dump does not tell.
"""

from typing import Any

import torch

from deploy_kit.policy.run.env_interface import JOINTS, STANDARD_FUNCTIONS, STANDARD_MODULES

_TARGETS = {
    "JointPositionAction": "joint position target",
    "JointVelocityAction": "joint velocity target",
    "JointEffortAction": "joint effort",
}


def task_interface(env: Any) -> dict[str, Any]:
    """Return the interface of a manager-based environment; of any other one its period alone.

    Args:
        env: the environment itself (`unwrapped`).
    """
    found: dict[str, Any] = {}
    if hasattr(env, "step_dt"):
        found["policy_period_s"] = float(env.step_dt)
    if hasattr(env, "physics_dt"):
        found["physics_period_s"] = float(env.physics_dt)
    if hasattr(env, "observation_manager"):
        observations = _observations(env)
        if observations:
            found["observations"] = observations
    if hasattr(env, "action_manager") and (actions := _actions(env)) is not None:
        found["actions"] = actions
    return found


def _observations(env: Any) -> dict[str, Any]:
    manager = env.observation_manager
    groups: dict[str, Any] = {}
    for group, names in manager.active_terms.items():
        # The order of the terms' configurations is that of their names; Isaac Lab has no public way to them.
        settings = manager._group_obs_term_cfgs[group]
        dims = manager.group_obs_term_dim[group]
        if not manager.group_obs_concatenate[group] or any(len(dim) != 1 for dim in dims):
            continue
        if getattr(manager, "_group_obs_time_major", {}).get(group):
            continue
        groups[group] = [
            _term(env, name, cfg, int(dim[0])) for name, cfg, dim in zip(names, settings, dims, strict=True)
        ]
    return groups


def _term(env: Any, name: str, cfg: Any, size: int) -> dict[str, Any]:
    history = max(int(cfg.history_length or 0), 1)
    term: dict[str, Any] = {"name": name, "size": size // history}
    if history > 1:
        term["history"] = history
    if cfg.clip is not None:
        term["clip"] = [float(value) for value in cfg.clip]
    if cfg.scale is not None:
        term["scale"] = _numbers(cfg.scale)
    function = getattr(cfg.func, "__name__", type(cfg.func).__name__)
    module = getattr(cfg.func, "__module__", "")
    known = STANDARD_FUNCTIONS.get(function) if f"{module}:" in STANDARD_MODULES else None
    if known is None or cfg.modifiers:
        return term
    if function == "last_action" and not cfg.params.get("action_name"):
        term["quantity"] = "last_action"
    term |= {"unit": known.unit, "description": known.description}
    if known.frame is not None:
        term["frame"] = known.frame
    if known.size == JOINTS:
        joints = _joints(env, cfg.params.get("asset_cfg"))
        if len(joints) == size // history:
            term["joints"] = joints
    return term


def _joints(env: Any, asset_cfg: Any) -> list[str]:
    """Return the joints that a term reads, in its order."""
    names = list(env.scene[getattr(asset_cfg, "name", "robot")].joint_names)
    chosen = getattr(asset_cfg, "joint_ids", slice(None))
    return names[chosen] if isinstance(chosen, slice) else [names[int(index)] for index in chosen]


def _actions(env: Any) -> dict[str, Any] | None:
    """Return what one term of joint actions does; None where there are several, or another."""
    manager = env.action_manager
    if len(manager.active_terms) != 1:
        return None
    term = manager.get_term(manager.active_terms[0])
    quantity, names = _TARGETS.get(type(term).__name__), list(getattr(term, "_joint_names", ()))
    if quantity is None or len(names) != term.action_dim:
        return None
    actions: dict[str, Any] = {"joints": names, "quantity": quantity, "scale": _numbers(term._scale)}
    actions["offset"] = _numbers(term._offset)
    asset = env.scene[term.cfg.asset_name]
    where = [list(asset.joint_names).index(name) for name in names]
    for key, attribute in (
        ("default_positions", "default_joint_pos"),
        ("stiffness", "joint_stiffness"),
        ("damping", "joint_damping"),
    ):
        value = getattr(asset.data, attribute, None)
        numbers = None if value is None else getattr(value, "torch", value)
        if isinstance(numbers, torch.Tensor):
            actions[key] = [float(numbers[0, index]) for index in where]
    return actions


def _numbers(value: Any) -> float | list[float]:
    """Return a number, or the first environment's numbers."""
    if isinstance(value, torch.Tensor):
        row = value.detach().cpu()
        if row.numel() == 1:
            return float(row)
        return [float(item) for item in (row[0] if row.dim() > 1 else row.reshape(-1))]
    if isinstance(value, (list, tuple)):
        return [float(item) for item in value]
    return float(value)
