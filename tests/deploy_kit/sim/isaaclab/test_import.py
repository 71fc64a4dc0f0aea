"""Isaac Lab is loaded when its back end is asked for, not before."""

import subprocess
import sys

MODULES = """
import importlib, pkgutil, sys
import deploy_kit
import deploy_kit.cli.main, deploy_kit.sim.registry, deploy_kit.sim.isaaclab
import deploy_kit.sim.isaaclab.host.factory, deploy_kit.sim.isaaclab.host.launch, deploy_kit.sim.isaaclab.racing.pool
for name in ("collect", "fly", "verify", "finetune", "export", "inspect"):
    importlib.import_module(f"deploy_kit.cli.{name}")
for name in ("collection.run", "flight.fly", "finetuning.run"):
    importlib.import_module(f"deploy_kit.{name}")
importlib.import_module("deploy_kit.verify.verifier")
from deploy_kit.sim.isaaclab.host.registration import register
register()
heavy = ("isaaclab", "isaaclab_rl", "isaaclab_newton", "newton", "warp", "omni", "pxr", "trimesh")
print(",".join(sorted({name.split(".")[0] for name in sys.modules} & set(heavy))))
"""


def test_nothing_but_the_back_end_loads_isaac_lab():
    loaded = subprocess.run([sys.executable, "-c", MODULES], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == ""
