"""What a flight's log says, held against checkpoint and bundle: open loop, on the very inputs of the flight."""
