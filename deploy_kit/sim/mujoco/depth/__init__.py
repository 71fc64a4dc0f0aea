"""Depth frames as compiled code."""
