"""How good a gate head is, and how its decisions are made, on arrays."""
