"""Flights in simulation: the rollout loop, who flies, and what is counted."""
