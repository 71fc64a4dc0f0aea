"""Train the gate head on stored features."""
