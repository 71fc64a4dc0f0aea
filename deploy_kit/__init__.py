"""deploy-kit: from a trained vision racing policy to a verified network on the drone.

Importing this package loads nothing heavy; the onboard runner relies on that.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
