"""What runs on the drone: a bundle's ONNX graph with guards, transforms and a self-check at start.

Needs numpy and onnxruntime, nothing else: the folder can be copied to the drone's computer alone.

    policy = OnboardPolicy("bundle")
    output = policy.step(state, depth)      # metres in, thrust/mass and body rates out

The bundle of any other policy takes its contract's terms by name:

    policy = TermPolicy("bundle", OnboardOptions(joint_order=["hip", "knee"]))
    output = policy.step({"gyro": gyro, "joint_pos": positions, "joint_vel": velocities})
"""

from typing import TYPE_CHECKING, Any

from .faults import Fault, OnboardFault
from .log_writer import RecordingOptions
from .options import OnboardOptions

if TYPE_CHECKING:
    from .policy_runner import TermOutput, TermPolicy
    from .runner import OnboardOutput, OnboardPolicy

__all__ = [
    "Fault",
    "OnboardFault",
    "OnboardOptions",
    "OnboardOutput",
    "OnboardPolicy",
    "RecordingOptions",
    "TermOutput",
    "TermPolicy",
]


def __getattr__(name: str) -> Any:
    """Import what needs onnxruntime when it is asked for: a log is read without it."""
    if name in ("OnboardOutput", "OnboardPolicy"):
        from . import runner

        return getattr(runner, name)
    if name in ("TermOutput", "TermPolicy"):
        from . import policy_runner

        return getattr(policy_runner, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
