"""Pictures and videos of a flight."""
