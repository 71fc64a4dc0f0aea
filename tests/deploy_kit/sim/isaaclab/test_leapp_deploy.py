"""`isaaclab leapp deploy` flies a bundle: Isaac Lab's own command, from the `leapp.yaml` that export writes."""

import importlib
import tomllib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch

pytest.importorskip("isaaclab")

from isaaclab.cli.commands.deploy import command_deploy_leapp
from isaaclab.sim import SimulationContext

from deploy_kit.export import exporter
from deploy_kit.policy.checkpoint import load_checkpoint
from deploy_kit.sim.isaaclab.host.registration import CFG_KEY, DEPLOYMENT_ID
from deploy_kit.sim.isaaclab.racing.deployment import deployment_env_cfg
from deploy_kit.sim.isaaclab.racing.race import race_of
from deploy_kit.task.racing import TASK_ID
from helpers.isaaclab.states import CALM, place, state

STEPS = 80
"""Steps of 0.03 s; the demo policy passes two gates in them."""

TASK = "Calm-Deployment-v0"


@pytest.fixture(scope="module")
def entry_point():
    """What Isaac Lab imports to know the project's tasks."""
    project = tomllib.loads((Path(__file__).parents[4] / "pyproject.toml").read_text(encoding="utf-8"))
    (module,) = project["project"]["entry-points"]["isaaclab.tasks"].values()
    importlib.import_module(module)


@pytest.fixture
def export(shipped_policy, tmp_path, monkeypatch):
    """Export the demo policy with LEAPP's description; the judge has tests of its own."""
    monkeypatch.setattr(exporter, "run_checks", lambda *_: ([], None))

    def write(**options):
        wanted = exporter.ExportOptions(
            shipped_policy, tmp_path / "bundle", use_auxiliary_head=True, task=TASK_ID, formats=("leapp",), **options
        )
        return exporter.export_bundle(wanted) / "leapp.yaml"

    return write


@pytest.fixture
def calm_task(entry_point):
    """The registered task without noise and randomisation, so that a flight can be flown again."""
    options = replace(CALM, num_envs=1)
    gymnasium.register(TASK, "isaaclab.envs:ManagerBasedRLEnv", kwargs={CFG_KEY: lambda: deployment_env_cfg(options)})
    yield options
    del gymnasium.registry[TASK]


def deploy(description, monkeypatch, steps, task):
    """Run the command for so many steps; return what each one began with, was fed, gave and came to."""
    from isaaclab.envs import LeappDeploymentEnv

    flown = []
    step = LeappDeploymentEnv.step

    def watched(self):
        begun = state(SimpleNamespace(unwrapped=self))
        fed, run_policy = {}, self.inference.run_policy

        def spied(inputs):
            fed.update({name: values.clone() for name, values in inputs.items()})
            return run_policy(inputs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.inference, "run_policy", spied)
            gave = step(self)
        position, race = state(SimpleNamespace(unwrapped=self))[0], race_of(self)
        robot = self.scene["robot"]
        newest = robot.controller.newest.clone()
        flown.append(
            SimpleNamespace(begun=begun, fed=fed, gave=gave, position=position, race=race, robot=robot, newest=newest)
        )
        return gave

    monkeypatch.setattr(LeappDeploymentEnv, "step", watched)
    monkeypatch.setattr(SimulationContext, "is_running", lambda self: len(flown) < steps)
    assert command_deploy_leapp(["--task", task, "--pipeline", str(description), "--seed", "3", "--device", "cpu"]) == 0
    monkeypatch.undo()
    return flown


def test_the_command_flies_a_bundle_as_the_racing_task_does(export, calm_task, build, monkeypatch, shipped_policy):
    flown = deploy(export(), monkeypatch, STEPS, TASK)
    assert int(flown[-1].race.gates_passed[0]) == 2
    network = load_checkpoint(shipped_policy).network
    names = ("policy/state", "policy/depth")
    state_of, depth = (torch.cat([one.fed[name] for one in flown]) for name in names)
    action, logit = (torch.cat([one.gave[f"policy/{name}"] for one in flown]) for name in ("action", "gate_logit"))
    with torch.inference_mode():
        expected = network.heads(network.features(state_of, depth))
    torch.testing.assert_close(action, expected.action, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logit, expected.gate_logit, rtol=1e-5, atol=1e-4)
    # The same actions from the same start, in the racing task: the same flight.
    race_env = build(calm_task)
    place(race_env, *flown[0].begun)
    with torch.inference_mode():
        for one, given in zip(flown, action[:, None], strict=True):
            race_env.step(given)
            np.testing.assert_allclose(state(race_env)[0], one.position, atol=1e-4)


def test_one_observation_and_commands_are_connected_too(entry_point, export, monkeypatch, shipped_policy):
    description = export(input_layout="flat", physical_actions=True)
    flown = deploy(description, monkeypatch, 3, DEPLOYMENT_ID)
    network = load_checkpoint(shipped_policy).network
    for one in flown:
        with torch.inference_mode():
            action = network(one.fed["policy/obs"]).action
        controller = one.robot.controller
        torch.testing.assert_close(controller._command_of(action), one.gave["policy/command"], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one.newest, one.gave["policy/command"], rtol=1e-4, atol=1e-4)
