"""The folder runs when it is copied to a computer that has numpy and onnxruntime and nothing else."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import deploy_kit.onboard as package
from deploy_kit.onboard import OnboardPolicy
from deploy_kit.onboard.__main__ import WARM_UP_STEPS, main, measure

SOURCE = Path(package.__file__).parent

ALONE = """
import sys

class Blocked:
    names = ("torch", "h5py", "onnx", "click", "deploy_kit", "safetensors", "yaml", "rich", "sklearn", "matplotlib")
    names += ("cryptography",)  # where a key is trusted, and nowhere else

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"{name} is not on the drone")

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
import numpy as np
from onboard import Fault, OnboardFault, OnboardPolicy

policy = OnboardPolicy(sys.argv[2], log=sys.argv[1] + "/flight.dklog")
output = policy.step(np.array([0, 0, 0, 0, 0, 1.0, 3, 0, 0, 3, 0, 0]), np.full((72, 96), np.inf))
print(output.command.tolist(), output.gate_probability, output.gate_passed)
"""


def run(*command, cwd):
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


def test_copied_folder_runs_alone(bundles, tmp_path):
    shutil.copytree(SOURCE, tmp_path / "drone" / "onboard", ignore=shutil.ignore_patterns("__pycache__"))
    result = run("-I", "-c", ALONE, str(tmp_path / "drone"), str(bundles.plain), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    command, probability, decision = result.stdout.replace("]", "];").split(";")[0], *result.stdout.split()[-2:]
    assert len(ast.literal_eval(command)) == 4
    assert 0 < float(probability) < 1
    assert decision in ("True", "False")


def test_it_imports_nothing_else_of_the_project():
    for path in SOURCE.glob("*.py"):
        allowed = {"numpy", "onnxruntime"} | sys.stdlib_module_names
        if path.name == "signature.py":  # imports it in the function that checks a signature
            allowed |= {"cryptography"}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            if isinstance(node, ast.ImportFrom):
                assert node.level == 1 or (node.level == 0 and node.module.split(".")[0] in allowed), path


def test_self_check_command(bundles, tmp_path):
    shutil.copytree(SOURCE, tmp_path / "onboard", ignore=shutil.ignore_patterns("__pycache__"))
    result = run("-m", "onboard", str(bundles.ready), "--steps", "100", cwd=tmp_path)
    # On a busy machine a step may take longer than the period; tests with a clock of their own judge that.
    assert (result.returncode, result.stderr[:20]) in [(0, ""), (1, "not fit to fly: a st")]
    first, second, third, fourth, fifth = result.stdout.splitlines()
    assert first.startswith("golden samples: passed, worst at 0.")
    assert second.startswith("one step: ")
    assert third.startswith("CPUExecutionProvider, threads: 1, onnxruntime ")
    assert fourth == "report beside the bundle: absent"
    assert fifth == "signature: not checked (--trust)"
    few = run("-m", "onboard", str(bundles.ready), "--steps", "99", cwd=tmp_path)
    assert few.returncode == 2
    assert "--steps 99 is below 100" in few.stderr
    missing = run("-m", "deploy_kit.onboard", str(tmp_path / "nothing"), cwd=SOURCE.parents[1])
    assert missing.returncode == 1
    assert missing.stderr.startswith("refused, bundle_incomplete: ")
    assert missing.stdout == ""


@pytest.mark.parametrize(("step_ns", "fit"), [(29_000_000, True), (30_000_000, False), (300_000_000, False)])
def test_a_step_that_takes_longer_than_the_period_is_not_fit_to_fly(bundles, capsys, step_ns, fit):
    """The clock is ours: each reading lies one step's duration after the one before."""
    time = iter(range(0, 10**12, step_ns))
    assert main([str(bundles.plain), "--steps", "100"], clock=lambda: next(time)) == (0 if fit else 1)
    printed = capsys.readouterr()
    assert "golden samples: passed" in printed.out
    assert ("not fit to fly: a step takes" in printed.err) is not fit


def test_one_slow_step_in_a_hundred_does_not_decide_alone(bundles):
    durations = [1000] * 300
    durations[WARM_UP_STEPS + 50] = 10**9
    readings = iter([reading for duration in durations for reading in (0, duration)])
    fitness = measure(OnboardPolicy(bundles.plain), 200, clock=lambda: next(readings))
    assert (fitness.steps, fitness.p50_us, fitness.fit) == (200, 1.0, True)
