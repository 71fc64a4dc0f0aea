"""The racing task: its numbers, its tracks, and simulators behind the rsl_rl vector-environment interface."""
