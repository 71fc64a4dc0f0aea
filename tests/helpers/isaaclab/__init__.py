"""Isaac Lab tasks of users, and states of the racing task there; imported where Isaac Lab is installed alone."""
