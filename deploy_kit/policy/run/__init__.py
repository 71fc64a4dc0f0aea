"""The training run around a checkpoint: its folder, parameters, vehicle and camera."""
