"""What Isaac Lab imports as the entry point ``isaaclab.tasks``, so that its own commands know the racing task."""

from deploy_kit.sim.isaaclab.host.registration import register

register()
