"""The racing task's numbers, and the policy's interface to the vehicle."""
