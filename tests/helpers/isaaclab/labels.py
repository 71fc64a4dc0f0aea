"""Labels for Isaac Lab's environments."""


def over(env):
    """Return whether an episode's time is over."""
    return env.episode_length_buf >= env.max_episode_length
