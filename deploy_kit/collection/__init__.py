"""Fly a policy and store its features with gate labels."""
