"""Hearing a step later whether numbers are finite must change nothing that is flown or told."""

import pytest
import torch
from rsl_rl.env import VecEnv
from tensordict import TensorDict

from deploy_kit.errors import TaskError
from deploy_kit.flight import finite
from deploy_kit.flight.rollout import rollout
from deploy_kit.policy.network import PolicyOutput

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
SIZE, ENVS, STEPS = 40, 5, 30


class _Env(VecEnv):
    """Integrates the actions on its device; some observations are not finite. `log` keeps what it was given."""

    def __init__(self, device: str, broken: tuple[tuple[int, int], ...]) -> None:
        self.num_envs, self.num_actions, self.device, self.cfg = ENVS, 4, device, {}
        self.max_episode_length, self.episode_length_buf = 100, torch.zeros(ENVS, dtype=torch.long)
        self.broken, self.log = broken, []
        self._state = torch.zeros(ENVS, SIZE, device=device)

    def get_observations(self) -> TensorDict:
        observation = self._state.clone()
        for step, env in self.broken:
            if step == len(self.log):
                observation[env, 7] = torch.nan
        return TensorDict({"policy": observation, "auxiliary": torch.zeros(ENVS, 1, device=self.device)}, [ENVS])

    def step(self, actions: torch.Tensor) -> tuple[TensorDict, torch.Tensor, torch.Tensor, dict]:
        self.log.append(actions.clone())
        if self.device == "cuda":
            # The device is far behind the host, as with a simulator on it.
            torch.cuda._sleep(3_000_000)
        self._state = self._state + actions.repeat(1, SIZE // 4) + 0.01
        return self.get_observations(), torch.zeros(ENVS), torch.zeros(ENVS, device=self.device), {}


def _fly(device, broken, go_on, nan_action_at=None):
    """Return each step's broken rows, all actions, and the error that ended the flight."""
    env, error = _Env(device, broken), None

    def driver(observation):
        action = torch.tanh(observation[:, :4])
        if len(env.log) == nan_action_at:
            action[2, 1] = torch.nan
        return PolicyOutput(action, None, torch.empty(ENVS, 0, device=device))

    steps = []
    try:
        steps.extend(
            None if record.broken is None else record.broken.tolist()
            for record in rollout(env, driver, STEPS, go_on_broken=go_on)
        )
    except TaskError as caught:
        error = str(caught)
    return steps, torch.stack(env.log).cpu(), error


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("broken", "go_on", "nan_action_at"),
    [
        ((), True, None),
        (((3, 1), (4, 1), (4, 3), (29, 0)), True, None),
        (((6, 4),), False, None),
        (tuple((9, env) for env in range(ENVS)), True, None),
        (((5, 0),), True, 12),
    ],
)
def test_a_late_answer_is_the_same_answer(monkeypatch, device, broken, go_on, nan_action_at):
    monkeypatch.setattr(finite, "LATE_DEVICES", ())
    steps, actions, error = _fly(device, broken, go_on, nan_action_at)
    monkeypatch.setattr(finite, "LATE_DEVICES", (device,))
    late_steps, late_actions, late_error = _fly(device, broken, go_on, nan_action_at)
    assert (late_steps, late_error) == (steps, error)
    assert (error is None) is (len(steps) == STEPS)
    # Heard late, the step of the fault has been flown already.
    assert len(late_actions) - len(actions) == (error is not None)
    assert torch.equal(late_actions[: len(actions)], actions)
    assert sum(rows is not None for rows in steps) == len({step for step, _ in broken if step < len(steps)})
