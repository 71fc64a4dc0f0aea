"""The racing task on MuJoCo's C engine: rigid body, contact and depth rays, environments side by side in threads."""
