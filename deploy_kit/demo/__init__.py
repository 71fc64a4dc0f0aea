"""The whole job on one policy."""
