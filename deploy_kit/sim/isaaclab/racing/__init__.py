"""The racing task as an Isaac Lab environment."""
