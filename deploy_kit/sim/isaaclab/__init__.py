"""The racing task, and any registered task, on Isaac Lab 3. Importing this package imports nothing of Isaac Lab."""
