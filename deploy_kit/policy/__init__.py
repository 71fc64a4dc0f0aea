"""The policy: its network, its interface to the vehicle, and the files it is kept in."""
