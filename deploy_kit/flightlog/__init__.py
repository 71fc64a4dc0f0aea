"""Logs of real and simulated flights: read what the onboard recorder wrote, convert to and from other formats."""
