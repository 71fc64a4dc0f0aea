"""Labels for Isaac Lab's environments."""


def over(env):
    """Return whether an episode's time is over."""
    return env.episode_length_buf >= env.max_episode_length


def low(env):
    """Return whether the cube has fallen by some centimetres."""
    return env.scene["cube"].data.root_link_pos_w.torch[:, 2] < 0.95
